"""A whole training step by its parts, against the same step in the authors' form. For a GPU; needs torch and triton.

    python benchmarks/gpu_step.py [--size 730 730] [--backbone resnet101] [--repeats 10]
    torchrun --standalone --nproc-per-node 2 benchmarks/gpu_step.py        # every form in plain DDP, on two GPUs

One pair of drawn images and labels, 19 classes, all of Eq. 14. Our form: bytes from pinned memory, channels last,
bfloat16 autocast, streaming association with bf16 products at the feature level. The authors' form: float32 tensors,
the association over whole N x N maps, plain autograd. Both start from the same weights, and before anything is
reported their losses must agree. Forms take turns; numbers are medians over repeats, in milliseconds.

Parts are timed with the device idle before and after each, so that their sum is more than the time of a step, which is
timed by itself. The association's backward pass is part of "backward"; "association alone" has both passes of it.
"data" is one thread's decoding and augmenting of a pair of GTA5's size (it needs torchvision and Pillow). "reduce" is
an all-reduce of all gradients by itself; in a whole step DDP does it beside the backward pass, in buckets of 25 MB.
"""

import argparse
import io
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from common import save
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from plca_dist.method.association import association_loss, labels_to_grid
from plca_dist.method.objective import Objective
from plca_dist.method.settings import ObjectiveSettings
from plca_dist.models.deeplab import build_network

CLASSES = 19
RANK, RANKS = (int(os.environ.get(name, default)) for name, default in (("LOCAL_RANK", "0"), ("WORLD_SIZE", "1")))
DEVICE = torch.device("cuda", RANK) if torch.cuda.is_available() else torch.device("cpu")
#: Largest difference of the losses of the two forms, relative: bfloat16 features against float32 ones.
AGREEMENT = 0.05


class Batch(NamedTuple):
    """As `data.stream.Batch`, which needs more than torch."""

    source_image: Tensor
    source_label: Tensor
    target_image: Tensor


@dataclass
class Form:
    """A way to do the step.

    Attributes:
        autocast: the network's products are bfloat16.
        channels_last: images and weights are.
        pinned: the batch comes as bytes from pinned memory, else as the authors' float32 and int64.
    """

    name: str
    objective: ObjectiveSettings
    autocast: bool
    channels_last: bool
    pinned: bool
    times: dict[str, list[float]] = field(default_factory=dict)
    peak_mb: float = 0.0

    def median(self, part: str) -> float:
        return statistics.median(self.times[part])


FORMS = (
    Form("ours", ObjectiveSettings(backend="streaming", products="bf16"), True, True, True),
    Form("ours, float32", ObjectiveSettings(backend="streaming"), False, True, True),
    Form("authors'", ObjectiveSettings(backend="dense"), False, False, False),
)


class Step:
    """The network of one form, its optimizer, and the parts of its step."""

    def __init__(self, form: Form, backbone: str, size: tuple[int, int]) -> None:
        torch.manual_seed(0)
        network = build_network(backbone, CLASSES).train()
        self.form, self.objective = form, Objective(form.objective)
        self.network: nn.Module = network.to(DEVICE)
        if form.channels_last:
            self.network = self.network.to(memory_format=torch.channels_last)
        if RANKS > 1:
            self.network = DistributedDataParallel(self.network)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
        generator = torch.Generator().manual_seed(1)
        images = [torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8, generator=generator) for _ in range(2)]
        patches = torch.randint(0, CLASSES, (1, 1, 8, 8), generator=generator).float()
        labels = nn.functional.interpolate(patches, size=size)[:, 0].to(torch.uint8)
        self.batch = Batch(images[0], labels, images[1])
        if not form.pinned:
            self.batch = Batch(images[0].float(), labels.long(), images[1].float())
        elif DEVICE.type == "cuda":
            self.batch = Batch(*(tensor.pin_memory() for tensor in self.batch))

    def copied(self) -> Batch:
        return Batch(*(tensor.to(DEVICE, non_blocking=True) for tensor in self.batch))

    def forward(self, batch: Batch) -> tuple[Any, Any]:
        layout = torch.channels_last if self.form.channels_last else torch.contiguous_format
        rounded = torch.autocast(DEVICE.type, torch.bfloat16) if self.form.autocast else nullcontext()
        with rounded:
            target, source = (
                self.network(image.contiguous(memory_format=layout))
                for image in (batch.target_image, batch.source_image)
            )
        return source, target

    def level(self, name: str, batch: Batch, source: Any, target: Any) -> Tensor:
        similarity = {"feature": "cosine", "prediction": "kl"}[name]
        pair = [x.features if name == "feature" else x.logits.float().softmax(1) for x in (source, target)]
        grid = labels_to_grid(batch.source_label.long(), tuple(pair[0].shape[2:]))
        return association_loss(*pair, grid, self.form.objective.level(similarity, 255)).loss

    def whole(self) -> Tensor:
        batch = self.copied()
        source, target = self.forward(batch)
        loss = self.objective(source, batch.source_label.long(), target).total
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


@contextmanager
def timed(form: Form, part: str) -> Iterator[None]:
    wait()
    began = time.perf_counter()
    yield
    wait()
    form.times.setdefault(part, []).append((time.perf_counter() - began) * 1e3)


def wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def by_parts(step: Step) -> None:
    """One step, part by part; it changes no weight."""
    form = step.form
    with timed(form, "copy"):
        batch = step.copied()
    with timed(form, "forward"):
        source, target = step.forward(batch)
    for name in ("feature", "prediction"):
        leaves = [type(x)(*(t.detach().requires_grad_() for t in x)) for x in (source, target)]
        with timed(form, f"association alone, {name}"):
            loss = step.level(name, batch, *leaves)
            torch.autograd.grad(loss, [x[0] if name == "feature" else x[1] for x in leaves])
    with timed(form, "objective, forward"):
        total = step.objective(source, batch.source_label.long(), target).total
    with timed(form, "backward"):
        total.backward()
    if RANKS > 1:
        gradients = [x.grad for x in step.network.parameters() if x.grad is not None]
        with timed(form, "reduce"):
            for gradient in gradients:
                dist.all_reduce(gradient)
    lr = step.optimizer.param_groups[0]["lr"]
    step.optimizer.param_groups[0]["lr"] = 0.0
    with timed(form, "optimizer"):
        step.optimizer.step()
        step.optimizer.zero_grad(set_to_none=True)
    step.optimizer.param_groups[0]["lr"] = lr


def data_ms(size: tuple[int, int], repeats: int) -> float | None:
    """One thread's time for a pair: two images and a label of 1052 x 1914, decoded, resized and cropped."""
    try:
        import numpy as np
        from PIL import Image

        from plca_dist.data.augment import augment
        from plca_dist.data.codec import decode_image, decode_label
        from plca_dist.data.encode import encoded_label
        from plca_dist.data.forms import Encoding
    except ImportError as error:
        print(f"data: not measured ({error})")
        return None
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (66, 120, 3), dtype=np.uint8)).resize((1914, 1052))
    noisy = np.clip(np.asarray(smooth) + rng.integers(-8, 9, (1052, 1914, 3)), 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noisy).save(stream, "PNG")
    classes = rng.integers(0, CLASSES, (9, 15), dtype=np.uint8).repeat(120, 0).repeat(130, 1)[:1052, :1914]
    label = encoded_label(classes, Encoding())
    edges = (min(size) + 30, round(min(size) * 1.35))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        for of_label in (label, None):
            decoded = None if of_label is None else decode_label(of_label)
            augment(decode_image(stream.getvalue()), decoded, rng, shorter_edge=edges, crop=size, flip=True)
        times.append((time.perf_counter() - began) * 1e3)
    torch.set_num_threads(threads)
    return statistics.median(times)


def measure(step: Step, repeats: int) -> None:
    form = step.form
    for _ in range(repeats):
        by_parts(step)
        if DEVICE.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with timed(form, "whole step"):
            step.whole()
        if DEVICE.type == "cuda":
            form.peak_mb = max(form.peak_mb, torch.cuda.max_memory_allocated() / 1e6)


def losses(make: Callable[[Form], Step]) -> dict[str, float]:
    """Of the first step of every form; ends the benchmark where they disagree."""
    found = {form.name: make(form).whole().item() for form in FORMS}
    reference = found[FORMS[-1].name]
    if not all(abs(value / reference - 1) <= AGREEMENT for value in found.values()):
        raise SystemExit(f"the losses of the forms disagree ({found}): nothing is reported")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(730, 730), metavar=("H", "W"))
    parser.add_argument("--backbone", default="resnet101")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3, help="turns of every form")
    options = parser.parse_args()

    def make(form: Form) -> Step:
        return Step(form, options.backbone, tuple(options.size))

    if RANKS > 1:
        dist.init_process_group("nccl" if DEVICE.type == "cuda" else "gloo")
    if DEVICE.type == "cuda":
        torch.cuda.set_device(DEVICE)
    data = data_ms(tuple(options.size), options.repeats)
    agreed = losses(make)
    for _ in range(options.rounds):
        for form in FORMS:
            step = make(form)
            by_parts(step)  # compiles kernels, chooses algorithms
            step.whole()
            for times in form.times.values():
                times.pop()
            measure(step, options.repeats)
            del step
            if DEVICE.type == "cuda":
                torch.cuda.empty_cache()
    if RANK:
        return
    parts = list(FORMS[0].times)
    print(f"{'ms':34s}" + "".join(f"{form.name:>16s}" for form in FORMS) + f"{'authors / ours':>18s}")
    for part in parts:
        values = [form.median(part) for form in FORMS]
        print(f"{part:34s}" + "".join(f"{v:16.2f}" for v in values) + f"{values[-1] / values[0]:18.2f}")
    if data is not None:
        print(f"{'data, one thread of the CPU':34s}{data:16.2f}")
    peaks = [form.peak_mb for form in FORMS]
    print(f"{'peak memory, MB':34s}" + "".join(f"{v:16.0f}" for v in peaks))
    print(f"{'pairs/s':34s}" + "".join(f"{1e3 * RANKS / form.median('whole step'):16.2f}" for form in FORMS))
    name = "gpu_step" if RANKS == 1 else f"gpu_step_{RANKS}"
    result = {
        "size": options.size,
        "backbone": options.backbone,
        "repeats": options.repeats,
        "rounds": options.rounds,
        "ranks": RANKS,
        "data_ms": data,
        "losses": agreed,
        "ms": {form.name: {part: form.median(part) for part in parts} for form in FORMS},
        "peak_mb": {form.name: form.peak_mb for form in FORMS},
    }
    if DEVICE.type == "cuda":
        print(save(name, result))
    else:
        print("no GPU here: nothing is saved")


if __name__ == "__main__":
    main()
