"""What needs no training is answered at once: without importing torch, numpy, Ray, DeepSpeed or pyarrow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "numpy", "ray", "deepspeed", "pyarrow", "optuna", "matplotlib")
#: Prints the exit code and the heavy modules as its last line.
CODE = f"""
import sys
from plca_dist.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as left:
    code = left.code
print(code, *sorted({set(HEAVY)} & set(sys.modules)))
"""
SPACE = "search: {objective.association: {uniform: [0.03, 0.3]}}\nmetric: entropy\ntrials: 2\n"


def answer(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=True)


@pytest.mark.parametrize("command", ["--help", "recipes", "train --help", "tune --help"])
def test_help_and_lists(command: str) -> None:
    done = answer(*command.split())
    assert done.stdout.splitlines()[-1] == "0", done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("train toytown --set optimiser.lr=1", "unknown key 'optimiser'. Did you mean 'optimizer'?"),
        ("train toytwon", "Did you mean 'toytown'?"),
        ("tune smoke --recipe toytown --set optimiser.lr=1", "unknown key 'optimiser'. Did you mean 'optimizer'?"),
        ("tune smok --recipe toytown", "Did you mean 'smoke'?"),
        ("tune SPACE --recipe toytown", "unknown key 'trails'. Did you mean 'trials'?"),
    ],
)
def test_typing_errors(command: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE.replace("trials", "trails"))
    done = answer(*command.replace("SPACE", str(tmp_path / "space.yaml")).split())
    assert done.stderr.startswith("plca: ")
    assert done.stderr.count("\n") == 1
    assert part in done.stderr
    assert done.stdout == "2\n"


def test_training_imports_no_compiler() -> None:
    """torchvision brings torch's with it: seconds of the start of the driver and of every worker."""
    code = (
        "import sys, plca_dist.run.train, plca_dist.training.loop;"
        "print(*({'torchvision', 'torch._inductor', 'torch._dynamo'} & set(sys.modules)))"
    )
    from plca_dist.ray_cluster.connect import worker_environment

    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | worker_environment(gpu=False), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.split() == []
