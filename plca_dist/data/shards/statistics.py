"""What a data set holds: sizes of images, pixels of every class, and what reading did to pixels."""

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from plca_dist.data.coding import IGNORE
from plca_dist.data.datasets.dataset import Sample
from plca_dist.data.label_hints import suspicious
from plca_dist.data.labels import LabelSet
from plca_dist.errors import counted, some

_SIZES, _WIDTH = 3, 110


@dataclass(frozen=True)
class Statistics:
    """Counts over images.

    Attributes:
        sizes: "width x height" -> images.
        pixels: of every class, in train-id order; empty without labels.
        ignored: pixels without a class.
        occurs: images in which each class occurs.
        notes: what reading does to pixels beyond decoding -> images.
    """

    sizes: dict[str, int]
    pixels: tuple[int, ...] = ()
    ignored: int = 0
    occurs: tuple[int, ...] = ()
    notes: dict[str, int] | None = None

    def __add__(self, other: "Statistics") -> "Statistics":
        def both(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
            return tuple(x + y for x, y in zip(a, b, strict=True)) if a and b else tuple(a or b)

        return Statistics(
            dict(Counter(self.sizes) + Counter(other.sizes)),
            both(self.pixels, other.pixels),
            self.ignored + other.ignored,
            both(self.occurs, other.occurs),
            dict(Counter(self.notes or {}) + Counter(other.notes or {})),
        )

    @property
    def images(self) -> int:
        return sum(self.sizes.values())


def of_sample(sample: Sample, classes: int | None) -> Statistics:
    """The statistics of one sample; `classes`: number of classes, None without labels."""
    size, notes = {f"{sample.width} x {sample.height}": 1}, dict.fromkeys(sample.notes, 1)
    if classes is None or sample.label is None:
        return Statistics(size, notes=notes)
    counts = np.bincount(sample.label.reshape(-1), minlength=IGNORE + 1)
    pixels = tuple(counts[:classes].tolist())
    return Statistics(size, pixels, int(counts[IGNORE]), tuple(int(n > 0) for n in pixels), notes)


def total(parts: Iterable[Statistics]) -> Statistics:
    """The sum of all; of none, no images."""
    return reduce(Statistics.__add__, parts, Statistics({}))


def shares(found: Statistics) -> tuple[list[float], float]:
    """(percent of all pixels for each class, percent ignored)."""
    pixels = sum(found.pixels) + found.ignored
    return [100 * n / max(pixels, 1) for n in found.pixels], 100 * found.ignored / max(pixels, 1)


def percent(share: float) -> str:
    """`12.3 %`; what is small and not nothing is `<0.1 %`."""
    return f"{share:.1f} %" if share >= 0.05 or not share else "<0.1 %"


def summary(found: Statistics, labels: LabelSet | None) -> list[str]:
    """Lines for a person: sizes, the share of every class, classes that never occur, and what is odd or changed."""
    sizes = sorted(found.sizes.items(), key=lambda item: -item[1])
    shown = [f"{n} of {size}" if len(sizes) > 1 else size for size, n in sizes]
    lines = [f"{counted(found.images, 'images')}, {some(shown, _SIZES)} pixels"]
    if found.pixels and labels:
        each, ignored = shares(found)
        parts = [f"{name} {percent(s)}" for name, s in zip(labels.classes, each, strict=True) if s]
        lines += _wrapped("pixels:", [*parts, f"ignored {percent(ignored)}"])
        if never := absent(found, labels):
            lines += _wrapped("never:", never)
    return lines + remarks(found, labels)


def absent(found: Statistics, labels: LabelSet) -> list[str]:
    """The classes that never occur, unless none does."""
    return [name for name, n in zip(labels.classes, found.pixels, strict=True) if not n] if any(found.pixels) else []


def remarks(found: Statistics, labels: LabelSet | None) -> list[str]:
    """What is odd about the labels, and what reading changed."""
    lines = []
    if found.pixels and labels:
        if not any(found.pixels):
            lines.append("no labelled pixel: these labels teach nothing and score nothing")
        if hint := suspicious(found.pixels, labels.coding):
            lines.append(hint)
    return lines + [f"{n} of {found.images} images: {note}" for note, n in sorted((found.notes or {}).items())]


def _wrapped(head: str, parts: Sequence[str]) -> list[str]:
    """The parts behind `head`, each in one line."""
    text = f"{head} " + ", ".join(part.replace(" ", "\u00a0") for part in parts)
    lines = textwrap.wrap(text, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return [line.replace("\u00a0", " ") for line in lines]
