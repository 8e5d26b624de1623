"""Damaged shards and manifests are one line in every command that reads them; two writers of one place do not mix."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from plca_dist.cli import main
from plca_dist.run import lease
from plca_dist.run.lease import Lease
from plca_dist.storage import resolve

Refused = Callable[..., str]

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "0xff": lambda data: b"\xff" * len(data),
    "[]": lambda data: b"[]",
    "{}": lambda data: b"{}",
    "nested": lambda data: b"[" * 200_000,
}
COMMANDS: dict[str, list[object]] = {
    "evaluate": ["evaluate", "RUN", "--data", "DATA"],
    "report": ["report", "RUN", "--data", "DATA", "--out", "OUT"],
    "verify": ["shards", "--verify", "DATA"],
    "train": ["train", "RECIPE", "--name", "new"],
}


@pytest.mark.parametrize("older", [False, True], ids=["", "older version"])
@pytest.mark.parametrize("file", ["manifest.json", "shard-00000.parquet"])
def test_damage_is_one_line_that_names_the_file(
    run: Path, toytown_shards: Path, refused_late: Refused, tmp_path: Path, file: str, older: bool
) -> None:
    data = tmp_path / "data"
    shutil.copytree(toytown_shards / "val", data)
    if older:
        raw = json.loads((data / "manifest.json").read_text())
        for shard in raw["shards"]:
            del shard["checksums"]
        (data / "manifest.json").write_text(json.dumps(raw))
    recipe = tmp_path / "recipe.yaml"
    text = (run / "recipe.yaml").read_text()
    assert str(toytown_shards / "source") in text
    recipe.write_text(text.replace(str(toytown_shards / "source"), str(data)))
    place = {"RUN": run, "DATA": data, "OUT": tmp_path / "out", "RECIPE": recipe}
    whole = (data / file).read_bytes()
    for damage in DAMAGE.values():
        (data / file).write_bytes(damage(whole))
        for name, command in COMMANDS.items():
            if name == "train" and file != "manifest.json":
                continue  # a driver reads manifests alone
            line = refused_late(*(place.get(str(part), part) for part in command))
            assert str(data) in line
            assert file in line
            assert "again" in line, "the way out"
            assert line.isprintable()


def test_a_second_writer_is_refused_and_an_interrupted_one_is_continued(
    refused_late: Refused, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images").mkdir()
    for i in range(4):
        Image.new("RGB", (24, 16), (i, i, i)).save(tmp_path / "images" / f"{i}.png")
    command = ["shards", "folder", "--root", str(tmp_path), "--no-labels", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(Lease.acquire.__func__, "__kwdefaults__", {"ttl": 0.5, "say": lease.log.warning})
    with Lease.acquire(resolve(str(tmp_path / "out"))):
        line = refused_late(*command)
        assert f"another `plca shards` writes there: {tmp_path}/out is being written by" in line
        assert f"process {os.getpid()}" in line
    # The first one has ended without a manifest: what it left is continued, and at once.
    assert main(command) == 0
    assert main(command) == 0, "finished shards are found"
    assert main(["shards", "--verify", str(tmp_path / "out")]) == 0
    assert "every byte as written: 4 samples in 1 shard, " in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--verify", "x", "toytown"],
        ["--out", "x"],
        *(
            ["--verify", "x", *given]
            for given in (["--overwrite"], ["--root", "y"], ["--max-edge", "5"], ["--count", "9"])
        ),
    ],
)
def test_verifying_and_writing_are_told_apart(refused: Refused, arguments: list[str]) -> None:
    refused("shards", *arguments)
