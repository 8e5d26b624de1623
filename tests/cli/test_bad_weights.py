"""A run whose weight file is damaged: no command takes it for a result, and none trains over it."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from plca_dist.cli import main
from tests.cli.conftest import Refused


def header(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


#: The file's size, or its header, is wrong.
CUT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "a byte": lambda _: b"\x00",
    "a length": lambda data: data[:8],
    "half a header": lambda data: data[:500],
    "cut short": lambda data: data[:-1],
    "with more behind": lambda data: data + b"\x00",
    "zeros": lambda data: bytes(len(data)),
    "0xff": lambda data: b"\xff" * len(data),
    "no JSON": lambda _: header(b"\xff\xfe{}"),
    "a list": lambda _: header(b"[]"),
    "nested": lambda _: header(b"[" * 100_000),
    "tensors without a place": lambda _: header(json.dumps({"weight": {"dtype": "F32"}}).encode()),
}


@pytest.mark.parametrize("damage", CUT)
def test_what_is_cut_is_no_result_and_is_not_trained_over(
    refused: Refused, training: Callable[..., list[str]], run: Path, toytown_shards: Path, tmp_path: Path, damage: str
) -> None:
    file = run / "model.safetensors"
    file.write_bytes(CUT[damage](file.read_bytes()))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for command in (
        [*training(run.parent), "--name", "made"],
        ["evaluate", run, "--data", toytown_shards / "val"],
        ["predict", run, "--images", tmp_path, "--out", tmp_path / "out"],
        ["export", run, "--out", tmp_path / "out.safetensors"],
        ["report", run, "--out", tmp_path / "page"],
    ):
        line = refused(*command)
        assert f"{file} is damaged (" in line
        assert "delete it, and the same `plca train` writes it again from the last checkpoint" in line
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_flipped_exponent_is_refused_wherever_weights_are_used(
    refused: Refused, training: Callable[..., list[str]], run: Path, toytown_shards: Path, tmp_path: Path
) -> None:
    file = run / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 0x40  # float32, little-endian: the last byte has the sign and most of the exponent
    file.write_bytes(bytes(data))
    for command in (
        ["evaluate", run, "--data", toytown_shards / "val"],
        ["predict", run, "--images", tmp_path, "--out", tmp_path / "out"],
        ["export", run, "--out", tmp_path / "out.safetensors"],
        [*training(tmp_path / "more"), "--name", "tuned", "--set", f"model.weights={file}"],
    ):
        assert f"{file} is damaged (it differs from the sha256 in its metadata)" in refused(*command)
    assert main(["report", str(run), "--out", str(tmp_path / "page"), "--images", "1"]) == 0
    page = (tmp_path / "page" / "index.html").read_text()
    assert f"no pictures: {file} is damaged (it differs from the sha256 in its metadata)" in page
