"""Toytown: drawn street scenes with a domain gap, a data set that needs no download.

Both domains have the same geometry (`street.py`): sizes, the horizon, and the neighbours of each thing. The source is
painted in flat colours with a little noise. The target has windows in its walls, and looks as through a bad camera on
a bad day (`_target_look`). A network trained on the source alone loses most of its score on the target, although
shapes and neighbourhoods are the same.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from plca_dist.data.datasets.dataset import Dataset, Sample
from plca_dist.data.datasets.street import Street
from plca_dist.data.labels import LABEL_SETS, LabelSet
from plca_dist.data.order import keyed_rng
from plca_dist.errors import UserError, nearest

#: Raised with every change of the drawing that changes a pixel, so that old shards are not taken for new ones.
TOYTOWN_VERSION = 1
DOMAINS = ("source", "target")
_SMALLEST = 32


def scene(index: int, *, seed: int, domain: str, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Scene number `index` of a domain: image (height, width, 3) uint8 and label (height, width) uint8.

    The label holds Cityscapes train ids of the nine classes of the label set "toytown". The scene is a function of the
    arguments alone. Scene i of the source and scene i of the target are two different streets.
    """
    rng = keyed_rng("toytown", TOYTOWN_VERSION, seed, domain, index)
    street = Street(rng, height, width, windows=domain == "target")
    street.paint()
    pixels = np.asarray(street.image, np.float32)
    pixels = _source_look(pixels, rng) if domain == "source" else _target_look(pixels, street.horizon, rng)
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8), np.array(street.label)


def _source_look(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return pixels + 3.0 * rng.standard_normal(pixels.shape, np.float32)


def _target_look(pixels: np.ndarray, horizon: float, rng: np.random.Generator) -> np.ndarray:
    """Texture, shadow, dull and warm colours, haze, blur, noise, in the order in which light meets them."""
    height, width = pixels.shape[:2]
    pixels = pixels * _blocks(height, width, rng)[..., None]
    pixels = pixels * _shadow(height, width, horizon, rng)[..., None]
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + 0.55 * (pixels - grey)
    # Haze is thick in the sky and around the horizon, where things are far away.
    rows = np.arange(height, dtype=np.float32)
    thick = np.where(rows < horizon, 0.38, 0.38 * np.exp((horizon - rows) / (0.12 * height)))
    haze = np.array([214, 205, 190], np.float32)
    pixels += thick[:, None, None] * (haze - pixels)
    pixels *= np.array([1.08, 1.0, 0.86], np.float32) * rng.uniform(0.8, 1.0)
    blurred = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(height / 120))
    return np.asarray(blurred, np.float32) + 9.0 * rng.standard_normal(pixels.shape, np.float32)


def _blocks(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A brightness factor (height, width) that is constant over blocks: paving, plaster, patches."""
    side = max(2, height // 24)
    coarse = rng.normal(1.0, 0.14, (-(-height // side), -(-width // side))).astype(np.float32)
    return coarse.repeat(side, 0).repeat(side, 1)[:height, :width]


def _shadow(height: int, width: int, horizon: float, rng: np.random.Generator) -> np.ndarray:
    """A brightness factor (height, width): 0.5 inside a slanted band across the ground, 1 elsewhere."""
    band = Image.new("L", (width, height), 0)
    near, far = rng.uniform(-0.2, 1.0, 2) * width
    wide = rng.uniform(0.15, 0.35) * width
    ImageDraw.Draw(band).polygon([(near, height), (far, horizon), (far + wide, horizon), (near + wide, height)], fill=1)
    return 1.0 - 0.5 * np.asarray(band, np.float32)


@dataclass(frozen=True)
class ToytownReader:
    """`count` scenes of one domain as a reader of samples; images are encoded losslessly."""

    domain: str
    count: int
    seed: int
    height: int
    width: int
    labelled: bool

    @property
    def dataset(self) -> str:
        return f"toytown-{self.domain}"

    @property
    def label_set(self) -> LabelSet:
        return LABEL_SETS["cityscapes"]

    @property
    def ids(self) -> Sequence[str]:
        return [self._id(i) for i in range(self.count)]

    def __len__(self) -> int:
        return self.count

    def load(self, i: int) -> Sample:
        image, label = scene(i, seed=self.seed, domain=self.domain, height=self.height, width=self.width)
        stream = io.BytesIO()
        # Noise hardly compresses, so the fastest level loses little.
        Image.fromarray(image).save(stream, "PNG", compress_level=1)
        return Sample(self._id(i), stream.getvalue(), label if self.labelled else None, self.height, self.width)

    def stamp(self, i: int) -> str:
        return f"v{TOYTOWN_VERSION}:{self.domain}:{self.seed}:{i}:{self.height}x{self.width}"

    def _id(self, i: int) -> str:
        return f"{self.domain}-{self.seed}-{i:06d}"


def open_toytown(
    *,
    with_labels: bool = True,
    split: str = "source",
    count: int = 400,
    seed: int = 0,
    size: tuple[int, int] = (96, 192),
) -> ToytownReader:
    """The first `count` scenes of a domain. Raises UserError for an unknown domain, no scenes or a tiny size."""
    if split not in DOMAINS:
        raise UserError(f"toytown split {split!r}: give one of {', '.join(DOMAINS)}.{nearest(split, DOMAINS)}")
    if count < 1:
        raise UserError(f"toytown count {count}: give at least 1.")
    if min(size) < _SMALLEST:
        raise UserError(f"toytown size {size[0]}x{size[1]}: height and width must be at least {_SMALLEST}.")
    return ToytownReader(split, count, seed, *size, labelled=with_labels)


TOYTOWN = Dataset(
    "none: street scenes drawn on the spot, split source (plain) or target (textured).",
    ("split", "count", "seed", "size"),
    open_toytown,
)
