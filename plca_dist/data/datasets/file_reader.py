"""The reader of image files and their label files.

Each file is checked when it is read. Nothing downstream has to expect a broken image, a label of another size, or a
class number that the label set does not know.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from plca_dist.data import label_hints
from plca_dist.data.codec import colour_codes, first_channel, index_image, verified_image
from plca_dist.data.coding import REFUSED, Coding
from plca_dist.data.datasets.dataset import ForeignLabels, Sample
from plca_dist.data.datasets.files import File, contents, stamp
from plca_dist.data.formats import changes
from plca_dist.data.labels import LabelSet
from plca_dist.errors import UserError, counted, some

#: Form of a coding -> label file to codes (H, W).
_DECODERS: dict[str, Callable[[bytes], np.ndarray]] = {
    "index": index_image,
    "red": first_channel,
    "colour": colour_codes,
}


@dataclass(frozen=True)
class FileReader:
    """Samples from image files and their label files, in the same order; `labels` None: images alone."""

    dataset: str
    label_set: LabelSet | None
    ids: tuple[str, ...]
    images: tuple[File, ...]
    labels: tuple[File, ...] | None
    coding: Coding | None

    @property
    def labelled(self) -> bool:
        return self.labels is not None

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, i: int) -> Sample:
        file = self.images[i]
        data = contents(file)
        try:
            image_3HW = verified_image(data)
        except ValueError as error:
            raise UserError(f"{file}: cannot be decoded: {error}.") from error
        height, width = image_3HW.shape[1:]
        label = None
        if self.labels is not None:
            label = self._label(self.labels[i])
            if label.shape != (height, width):
                raise UserError(
                    f"{self.labels[i]}: the label is {label.shape[1]}x{label.shape[0]} pixels, "
                    f"its image {file} is {width}x{height}; the two must be of one size."
                )
        notes = changes(data)
        if any(note.startswith("16 bits") for note in notes) and int(image_3HW.max()) < _DARK:
            notes = (
                *notes,
                f"nearly black, no sample above {256 * _DARK} of 65535: scale such images to 16 bits first",
            )
        return Sample(self.ids[i], data, label, height, width, notes)

    def stamp(self, i: int) -> str:
        files = (self.images[i], self.labels[i]) if self.labels is not None else (self.images[i],)
        return "+".join(map(stamp, files))

    def _label(self, file: File) -> np.ndarray:
        assert self.coding
        try:
            codes_HW = _DECODERS[self.coding.form](contents(file))
        except ValueError as error:
            raise UserError(f"{file}: cannot be read as a label: {error}.") from error
        table = self.coding.table()
        if int(codes_HW.max(initial=0)) < len(table):
            label_HW = table[codes_HW]
            if not (label_HW == REFUSED).any():
                return label_HW
        raise ForeignLabels(self._foreign(file, codes_HW))

    def _foreign(self, file: File, codes_HW: np.ndarray) -> str:
        assert self.coding
        found, first, count = np.unique(codes_HW, return_index=True, return_counts=True)
        outside = ~np.isin(found, self.coding.allowed)
        places = [
            f"{self.coding.text([int(code)])}: {counted(n, 'pixels')}, the first in row {at // width}, column "
            f"{at % width}"
            for width in [codes_HW.shape[1]]
            for code, at, n in zip(found[outside], first[outside], count[outside], strict=True)
        ]
        return (
            f"{file}: label {self.coding.things} {self.coding.text(found[outside])} are not {self.dataset}'s; allowed: "
            f"{self.coding.text(self.coding.allowed)}. {some(places)}. "
            + label_hints.likely(set(map(int, found)), self.coding, self.label_set)
        )


#: High bytes of 16-bit samples, below which an image is no image of 16 bits: 12 bits reach 15.
_DARK = 16
