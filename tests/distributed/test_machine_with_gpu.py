"""A recipe for the CPU, on a machine that has a GPU: Ray does not hide it, and DeepSpeed would take it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

GPU = Path(__file__).with_name("machine_with_gpu")


def environment() -> dict[str, str]:
    hidden = {"DS_ACCELERATOR", "CUDA_VISIBLE_DEVICES", "RAY_ADDRESS"}
    return {k: v for k, v in os.environ.items() if k not in hidden} | {"PYTHONPATH": f"{GPU}:{Path.cwd()}"}


@pytest.mark.ci
def test_a_recipe_for_the_cpu_leaves_the_gpu_alone(toytown_settings: list[str], tmp_path: Path) -> None:
    settings = [*toytown_settings, "schedule.steps=2", "cluster.workers=2", f"storage.uri={tmp_path}"]
    sets = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "plca_dist.cli", "train", "toytown", "--name", "on-cpu", *sets]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "on-cpu" / "model.safetensors").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="the machine has a GPU")
def test_the_machine_is_one_that_the_test_above_can_fail_on() -> None:
    code = "import deepspeed; print(deepspeed.accelerator.get_accelerator().device_name())"
    for hidden, sees in (({}, "cuda"), ({"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}, "cpu")):
        variables = environment() | {"TORCHDYNAMO_DISABLE": "1"} | hidden
        found = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)
        assert found.stdout.splitlines()[-1] == sees, found.stderr
