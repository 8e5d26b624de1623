"""The directory in which a document's commands run: photos, and small copies of the data sets' layouts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.docs.documents import blocks

#: By folder, in the published layouts: an image, its label if it has one, and the label values in it.
_PAIRS = {
    "GTA5": [(f"images/{n:05d}.png", f"labels/{n:05d}.png", range(34)) for n in (1, 2)],
    "SYNTHIA": [(f"RGB/{n:07d}.png", f"GT/LABELS/{n:07d}.png", range(23)) for n in (0, 1)],
    "cityscapes": [
        (f"leftImg8bit/{split}/ulm/ulm_{n:06d}_000019_leftImg8bit.png",
         f"gtFine/{split}/ulm/ulm_{n:06d}_000019_gtFine_labelIds.png", range(34))
        for split in ("train", "val") for n in (0, 1)
    ],
    "CAMVID": [(f"{split}/{n}.png", f"{split}annot/{n}.png", range(12)) for split in ("train", "val") for n in (0, 1)],
    "mine": [(f"images/{n}.jpg", f"labels/{n}.png", [*range(19), 255]) for n in range(8)],
    "checked": [(f"images/{n}.jpg", f"labels/{n}.png", [*range(19), 255]) for n in range(2)],
    "photos": [(f"images/{n}.jpg", None, []) for n in range(8)],
}  # fmt: skip
_SIZE = 48, 96


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Change into a directory with the data that documents assume and the files that this document shows."""

    def prepare(document: Path) -> None:
        for folder, pairs in _PAIRS.items():
            for image, label, values in pairs:
                _draw(tmp_path / folder, image, label, np.array(values, np.uint8))
        for block in blocks(document.read_text()):
            if block.language == "yaml":
                (tmp_path / block.file).write_text(block.text)
        monkeypatch.chdir(tmp_path)

    return prepare


def _draw(root: Path, image: str, label: str | None, values: np.ndarray) -> None:
    generator = np.random.default_rng(sum(image.encode()))
    drawn = {image: generator.integers(0, 256, (*_SIZE, 3), np.uint8)}
    if label:
        drawn[label] = generator.choice(values, _SIZE)
    for name, pixels in drawn.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / name)
