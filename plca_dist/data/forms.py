"""The forms in which `plca shards` keeps images: the files as they came, or encoded anew, perhaps smaller.

Training decodes every sample again in every epoch: a form that decodes faster is worth the writing. This file takes
neither torch nor Pillow; `encode.py` does the work.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from plca_dist.errors import UserError


class Form(NamedTuple):
    """How Pillow writes an image, and a label; None: as a PNG."""

    image: dict[str, Any]
    lossless: bool
    label: dict[str, Any] | None = None


KEEP = "keep"
_PREDICTOR = 317  # a tag of TIFF; 2: each sample as the difference from its left neighbour
_ZSTD: dict[str, Any] = {"format": "TIFF", "compression": "zstd"}
ENCODED = {
    # Differences compress as well as a PNG's, and zstd undoes it several times faster.
    "tiff-zstd": Form(_ZSTD | {"tiffinfo": {_PREDICTOR: 2}}, True, _ZSTD),
    "png-fast": Form({"format": "PNG", "compress_level": 1}, True),
    "webp-lossless": Form({"format": "WEBP", "lossless": True, "exact": True, "quality": 0, "method": 0}, True),
    # Chroma at full resolution: halved, thin classes would take the colour of their neighbours.
    "jpeg-95": Form({"format": "JPEG", "quality": 95, "subsampling": 0}, False),
}
FORMS = (KEEP, *ENCODED)


@dataclass(frozen=True)
class Encoding:
    """How images are kept.

    Attributes:
        form: one of FORMS.
        max_edge: longer images are made smaller, so that their longer edge has so many pixels; None: none are.
    """

    form: str = KEEP
    max_edge: int | None = None

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UserError(f"the form {self.form!r} is unknown; give one of {', '.join(FORMS)}.")
        if self.form == KEEP and self.max_edge:
            raise UserError(
                "an image that is made smaller is no file as it came: with --max-edge give --encode, one of "
                f"{', '.join(ENCODED)}."
            )

    @property
    def lossless(self) -> bool:
        """Whether every image decodes to the pixels of its file."""
        return not self.max_edge and (self.form == KEEP or ENCODED[self.form].lossless)
