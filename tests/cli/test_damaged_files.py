"""Every file of a run and of a search, damaged in every way, under every command that reads it."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from plca_dist import polling
from plca_dist.cli import main
from plca_dist.errors import UserError
from plca_dist.recipe import load
from plca_dist.run.history import History
from plca_dist.search.directory import open_search
from plca_dist.search.space import load_space
from plca_dist.search.trials import Trial
from plca_dist.storage import resolve
from plca_dist.training.checkpoint.commit import Checkpoint, checkpoint_name, commit, sha256

DEEP = 100_000
#: What may become of a file: its bytes -> other bytes.
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "no text": lambda data: b"\xff" * 64,
    "another list": lambda data: b"[]",
    "another mapping": lambda data: b"{}",
    "deep": lambda data: b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "other values": lambda data: data.replace(b": ", b": [1], "),
}


def complete(run: Path) -> None:
    """Add to a claimed run what training leaves beside recipe, data and weights."""
    store = resolve(str(run))
    history = History(store, {"torch": "2"})
    history.begin(0, 1, 1)
    history.end("finished", reached=4)
    store.write("metrics.jsonl", b'{"step": 2, "loss/total": 1.5}\n{"step": 4, "loss/total": 1.25}\n')
    outcome = {"step": 4, "unlabelled": 4, "criteria": {"criteria/entropy": 0.25}}
    store.write("evaluation.json", json.dumps(outcome, indent=1).encode())
    store.write("lease/00000001.json", json.dumps({"token": "t", "released": True}).encode())


def files_of(folder: Path) -> dict[str, bytes]:
    """Those that say something; leases change with every launch."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "lease" not in path.parts
    }


def started(*_: object, **__: object) -> NoReturn:
    raise UserError("the work would begin.")


@pytest.fixture
def judge(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a command: it succeeds, or is refused with one line and writes nothing."""
    monkeypatch.setattr(polling, "_PAUSES_S", ())
    monkeypatch.setattr("plca_dist.run.train.connection", started)
    monkeypatch.setattr("plca_dist.search.tune._search", started)
    monkeypatch.setattr("plca_dist.report.write.curves", lambda *_: b"")
    logging.disable()

    def run(folder: Path, case: str, arguments: list[str], *, may_write: bool = False) -> None:
        before = files_of(folder)
        capsys.readouterr()
        code = main(arguments)
        err = capsys.readouterr().err
        assert code in (0, 2), f"{case}: {arguments[0]} left with {code}: {err}"
        if code == 2:
            assert [line for line in err.splitlines() if line.startswith("plca: ")] == err.splitlines()[-1:], err
            assert len(err) < 1500, f"{case}: {arguments[0]} wrote {len(err)} letters"
            assert may_write or files_of(folder) == before, f"{case}: {arguments[0]} wrote something"

    return run


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_a_run_is_one_line(
    damage: str,
    run: Path,
    training: Callable[..., list[str]],
    tmp_path: Path,
    judge: Callable[..., None],
) -> None:
    complete(run)
    nothing = str(tmp_path / "nothing")
    commands = [
        ["report", str(run), "--images", "0", "--out", str(tmp_path / "page")],
        ["evaluate", str(run), "--data", nothing],
        ["predict", str(run), "--images", nothing, "--out", str(tmp_path / "out")],
        [*training(run.parent), "--name", run.name],
    ]
    export = ["export", str(run), "--out", f"{tmp_path}/out.safetensors"]
    whole = files_of(run) | {"lease/00000001.json": (run / "lease/00000001.json").read_bytes()}
    for name, data in whole.items():
        (run / name).write_bytes(DAMAGES[damage](data))
        for command in commands:
            judge(run, f"{damage} {name}", command, may_write=name.startswith("lease"))
        if name in ("model.safetensors", "recipe.yaml"):
            judge(run, f"{damage} {name}", export)
        (run / name).write_bytes(data)

    store = resolve(str(run))
    (run / "model.safetensors").unlink()
    (run / "state").write_bytes(b"x")
    name = checkpoint_name(4, 1, 1)
    store.write(f"checkpoints/{name}/state", b"x")
    commit(store, Checkpoint(name, 4, 1, 0, "print", None, {"state": (1, sha256(run / "state"))}))
    (run / "state").unlink()
    for name, data in files_of(run).items():
        (run / name).write_bytes(DAMAGES[damage](data))
        for command in (commands[0], [*training(run.parent), "--name", run.name]):
            judge(run, f"{damage} {name}, unfinished", command, may_write=command[0] == "train")
        for path in set(files_of(run)) - set(whole):
            if not path.startswith("checkpoints"):
                (run / path).unlink()
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(data)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_a_search_is_one_line(
    damage: str,
    training: Callable[..., list[str]],
    toytown_settings: list[str],
    tmp_path: Path,
    judge: Callable[..., None],
) -> None:
    space = tmp_path / "mine.yaml"
    space.write_text("search: {objective.association: {uniform: [0.03, 0.3]}}\nmetric: entropy\ntrials: 2\n")
    config = load("toytown", [*toytown_settings, f"storage.uri={tmp_path}/runs"])
    search = open_search(load_space(space), config, "made")
    search.claim()
    search.record(Trial("trial-000", {"objective.association": 0.1}, "running", 4, 600, [{"step": 4, "miou": 1.0}]))
    folder = Path(search.store.root)
    _, recipe, *rest = training(tmp_path / "runs")
    command = ["tune", str(space), "--recipe", recipe, *rest, "--name", "made"]
    for name, data in files_of(folder).items():
        (folder / name).write_bytes(DAMAGES[damage](data))
        judge(folder, f"{damage} {name}", command)
        judge(folder, f"{damage} {name}", ["report", str(folder)])
        (folder / name).write_bytes(data)
    judge(folder, "sound", command)
    for kind, refused in (
        ("space", ["tune", str(space), "--recipe", recipe, *rest]),
        ("recipe", ["train", str(space)]),
    ):
        space.write_bytes(DAMAGES[damage](space.read_bytes()))
        judge(folder, f"{damage} {kind}", refused)
