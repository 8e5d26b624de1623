"""Searches that are refused before anything is written or started."""

from collections.abc import Callable
from pathlib import Path

import pytest

Refused = Callable[..., str]

SPACE = """
search: {objective.association: {uniform: [0.03, 0.3]}}
metric: entropy
trials: 2
"""


@pytest.fixture
def space(tmp_path: Path) -> Callable[[str, str], Path]:
    """The file of `SPACE` with one part replaced, outside of the directory in which nothing may be written."""

    def write(old: str, new: str) -> Path:
        assert old in SPACE
        file = tmp_path / "space.yaml"
        file.write_text(SPACE.replace(old, new))
        return file

    return write


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("objective.association", "objective.asociation", ["asociation", "Did you mean 'objective.association'?"]),
        ("[0.03, 0.3]", "[0.3, 0.03]", ["[0.3, 0.03]", "the range is empty", "swapped"]),
        ("uniform", "unifrom", ["unknown distribution 'unifrom'", "Did you mean 'uniform'?"]),
        ("trials: 2", "trials: 2\nscheduler: ahsa", ["scheduler", "ahsa", "Did you mean 'asha'?"]),
        ("entropy", "entrpy", ["metric", "Did you mean 'entropy'?"]),
        ("[0.03, 0.3]", "[-1, 0.3]", ["objective.association", "-1", "greater than or equal to 0"]),
    ],
)
def test_a_bad_space_is_refused(
    old: str,
    new: str,
    parts: list[str],
    space: Callable[[str, str], Path],
    refused: Refused,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    line = refused("tune", space(old, new), "--recipe", "toytown")
    for part in parts:
        assert part in line
    assert not list(empty.iterdir()), "something was written"


def test_what_a_search_needs_is_looked_for_before_anything_starts(
    space: Callable[[str, str], Path],
    refused: Refused,
    training: Callable[..., list[str]],
    run: Path,
    tmp_path: Path,
) -> None:
    file = space("entropy", "entropy")
    _, recipe, *rest = training(tmp_path / "runs")
    assert "does not exist" in refused("tune", tmp_path / "spice.yaml", "--recipe", recipe)
    assert "Did you mean" in refused("tune", file, "--recipe", "toytwon")
    command = ("tune", file, "--recipe", recipe, *rest)
    assert "is a run" in refused(*command, "--name", run.name)
    assert "--name" in refused(*command, "--name", "../other")
    assert f"{tmp_path}/nothing" in refused(*command, "--set", f"target.uri={tmp_path}/nothing")
    assert "metric target_miou" in refused(
        "tune", space("entropy", "target_miou"), "--recipe", recipe, *rest, "--set", "evaluation.uri=null"
    )
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == [run.name]
