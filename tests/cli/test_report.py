"""`plca report`: what it prints, and what it refuses in a line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from plca_dist.cli import main

Refused = Callable[..., str]


def test_a_report_names_what_it_wrote(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--out", str(tmp_path / "out"), "--images", "1", "--candidates", "1"]) == 0
    page, *pictures = capsys.readouterr().out.splitlines()
    assert page == f"page: {tmp_path}/out/index.html"
    assert f"  {tmp_path}/out/panels.png" in pictures
    assert all(Path(line.removeprefix("page: ").strip()).exists() for line in (page, *pictures))


def test_what_cannot_be_reported_is_refused(refused: Refused, run: Path, tmp_path: Path, toytown_shards: Path) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "search/space.yaml").write_text("")
    assert "is no run: it holds no recipe.yaml" in refused("report", tmp_path / "nothing")
    assert "is no run" in refused("report", run / "model.safetensors")
    assert "is no run" in refused("report", run / "checkpoints/step-00000100-of-2")
    assert "/search/trials" in refused("report", run, tmp_path / "search")
    assert "given twice" in refused("report", run, run)
    assert "no manifest.json" in refused("report", run, "--data", tmp_path / "nowhere")
    assert "holds no labels" in refused("report", run, "--data", toytown_shards / "target")
    assert str(run) in refused("report", run, "--out", run / "recipe.yaml", "--images", 0)
    (run / "recipe.yaml").write_text("labels: 7")
    assert f"{run}/recipe.yaml" in refused("report", run)
    assert not (run / "report").exists()


@pytest.mark.parametrize("damaged", ["metrics.jsonl", "evaluation.json"])
def test_a_damaged_file_of_a_run_is_named(damaged: str, refused: Refused, run: Path) -> None:
    (run / damaged).write_bytes(b'{"step": 1')
    assert f"{run}/{damaged}" in refused("report", run, "--images", 0)


@pytest.mark.parametrize(
    "option", [["--images", "-1"], ["--candidates", "0"], ["--aggregation", "1"], ["--workers", "0"]]
)
def test_values_out_of_range_are_refused(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["report", "run", *option])
    assert left.value.code == 2
    assert option[0] in capsys.readouterr().err
