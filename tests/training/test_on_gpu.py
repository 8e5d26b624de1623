"""The training of one rank on a GPU: every ZeRO stage, left and continued, and what it leaves read on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from plca_dist.data.labels import LABEL_SETS
from plca_dist.data.whole_images import labelled_samples
from plca_dist.storage import Location, resolve
from plca_dist.training.evaluation import evaluate
from plca_dist.training.trained import load_trained


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_on_the_gpu_is_read_on_the_cpu(shards: Path, tmp_path: Path) -> None:
    """In a process of its own: in this one DeepSpeed has been told that there is no GPU."""
    environment = {k: v for k, v in os.environ.items() if k != "DS_ACCELERATOR"} | {"TORCHDYNAMO_DISABLE": "1"}
    environment |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "PYTHONPATH": str(Path(__file__).parents[2])}
    script = Path(__file__).with_name("gpu_rank.py")
    done = subprocess.run(
        [sys.executable, str(script), str(shards), str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    labels = LABEL_SETS["toytown"]
    for stage in (0, 1, 2, 3):
        run = tmp_path / f"zero-{stage}"
        (newest, *_) = sorted((run / "checkpoints").glob("step-00000006*"))
        of_checkpoint, of_result = (load_trained(Location(str(place))).network for place in (newest, run))
        for name, value in of_result.state_dict().items():
            torch.testing.assert_close(of_checkpoint.state_dict()[name], value, rtol=1e-6, atol=1e-7)
        counts = []
        for device in ("cpu", "cuda"):
            samples = labelled_samples(resolve(str(shards / "val")), labels, 0, 1)
            found = evaluate(of_result.to(device), samples, num_classes=len(labels), size=None, ratios=(0.0, 0.5))
            counts.append(found)
        on_cpu, on_gpu = counts
        for ratio, matrix in on_cpu.matrices.items():
            moved = (matrix - on_gpu.matrices[ratio]).abs().sum() / matrix.sum()
            assert moved < 0.01, f"stage {stage}, λ {ratio}: {moved:.3f} of the pixels are counted elsewhere"
