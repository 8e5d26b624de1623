"""Fixtures of the commands' tests: refusals, a finished run, and the arguments of a training."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from plca_dist.cli import main
from plca_dist.data.labels import LABEL_SETS
from plca_dist.models.deeplab import build_network
from plca_dist.models.weights import to_bytes
from plca_dist.recipe import load
from plca_dist.run.directory import open_run

Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must be refused with exit code 2 and one line on stderr; return the line."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert main([str(a) for a in arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("plca: ")
        assert err.count("\n") == 1, err
        return err

    return run


@pytest.fixture
def refused_late(capsys: pytest.CaptureFixture[str]) -> Refused:
    """As `refused`, for a command that shows progress first: the refusal is one line, and the last."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert main([str(a) for a in arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        *before, last = err.splitlines()
        assert last.startswith("plca: ")
        assert not any("plca:" in line or "Traceback" in line for line in before)
        return last

    return run


@pytest.fixture(scope="session")
def weights() -> Callable[..., bytes]:
    """A weight file of a tiny network: `weights(classes, rates=…, seed=…)`."""

    def make(classes: tuple[str, ...], rates: tuple[int, ...] = (1, 2, 4), seed: int = 5) -> bytes:
        torch.manual_seed(seed)
        return to_bytes(build_network("tiny", len(classes), style="torchvision", rates=rates), classes)

    return make


@pytest.fixture
def training(toytown_settings: list[str]) -> Callable[..., list[str]]:
    """The arguments of a training on tiny toytown that could start: `training(storage, *more)`."""

    def arguments(storage: Path | str, *more: str) -> list[str]:
        sets = [part for setting in toytown_settings for part in ("--set", setting)]
        return ["train", "toytown", "--storage", str(storage), *sets, *more]

    return arguments


@pytest.fixture
def run(tmp_path: Path, toytown_settings: list[str], weights: Callable[..., bytes]) -> Path:
    """A finished run, `runs/made`, with the files that training leaves but random weights."""
    config = load("toytown", [*toytown_settings, f"storage.uri={tmp_path}/runs"])
    made = open_run(config, "made")
    made.claim(1)
    made.store.write("model.safetensors", weights(LABEL_SETS["toytown"].classes))
    return Path(made.store.root)
