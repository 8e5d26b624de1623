"""A ViT and a ConvNeXt on a real cluster: trained, killed, resumed elsewhere, exported, and evaluated equal."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from plca_dist.cli import main
from plca_dist.data.labels import LABEL_SETS
from plca_dist.data.whole_images import labelled_samples
from plca_dist.messages import Message, RunEvent
from plca_dist.models.onnx_file import run_onnx
from plca_dist.run.train import train
from plca_dist.training.checkpoint.survey import committed
from plca_dist.training.scores import confusion

#: Enough for a kill that arrives before the end, though workers may outlive their driver by seconds.
STEPS = 120
ADAMW = (
    f"schedule.steps={STEPS}",
    "optimizer={kind: adamw, lr: 0.001, weight_decay: 0.05, head_lr_multiplier: 10}",
    "schedule.warmup=10",
)
NETWORKS = {
    "vit": (
        "model.backbone=timm/test_vit", "model.stride=16", *ADAMW, "optimizer.layer_decay=0.8",
        "model.frozen=[patch_embed]",
    ),
    "convnext": ("model.backbone=timm/test_convnext", "model.head=multilevel", *ADAMW),
}  # fmt: skip
#: Of two workers before the kill, and of one after it.
STAGES = {"vit": (2, 1), "convnext": (0, 3)}


@pytest.mark.ci
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_timm_goes_the_whole_way(
    name: str, runs: Any, driver: Callable[[list[str]], Any], tmp_path: Path
) -> None:
    before, after = (f"deepspeed.zero_optimization.stage={stage}" for stage in STAGES[name])
    first = driver(runs.command(name, *NETWORKS[name], before))
    first.read_until("checkpoint step")
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    reached = committed(runs.store.child(name))[0].step
    assert reached < STEPS

    said: list[str] = []

    def show(event: RunEvent) -> None:
        said.extend([event.text] if isinstance(event, Message) else [])

    train(runs.config(*NETWORKS[name], after, "cluster.workers=1"), name, show)
    assert any(line.startswith("continuing from step ") for line in said), said
    assert runs.recorded(name) == list(range(1, STEPS + 1))

    run, val = f"{runs.store.uri}/{name}", f"{runs.shards.uri}/val"
    assert main(["evaluate", run, "--data", val, "--aggregation", "0.5"]) == 0
    assert main(["export", run, "--out", str(tmp_path / "network.onnx"), "--size", "32", "64"]) == 0
    assert main(["report", run, "--out", str(tmp_path / "page"), "--images", "1"]) == 0
    assert NETWORKS[name][0].partition("=")[2] in (tmp_path / "page" / "index.html").read_text()
    (score,) = [
        s for s in json.loads(runs.store.read(f"{name}/evaluations/val.json"))["scores"] if s["aggregation"] == 0.5
    ]
    labels, graph = LABEL_SETS["toytown"], (tmp_path / "network.onnx").read_bytes()
    matrix = torch.zeros(len(labels), len(labels), dtype=torch.int64)
    for image_3HW, label_HW in labelled_samples(runs.shards.child("val"), labels, 0, 1):
        _, ids_1HW = run_onnx(graph, image_3HW[None])
        matrix += confusion(ids_1HW[0].long(), label_HW, len(labels))
    off = int((matrix - torch.tensor(score["confusion"])).abs().sum())
    assert off <= 1e-3 * int(matrix.sum()), "rounding may turn a tie, and no more"
    assert len(set(matrix.sum(0).tolist())) > 2, "it predicts several classes"
