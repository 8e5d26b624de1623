"""GTA5 (Richter et al., "Playing for Data", ECCV 2016): frames of a game, with Cityscapes' label ids."""

from pathlib import Path

from plca_dist.data.datasets.dataset import Dataset
from plca_dist.data.datasets.file_reader import FileReader
from plca_dist.data.datasets.listing import list_images, paired
from plca_dist.data.labels import CODINGS, LABEL_SETS

LAYOUT = "images/00001.png, labels/00001.png (the published *_images.zip and *_labels.zip)."


def _open(root: Path, *, with_labels: bool) -> FileReader:
    images = list_images("gta5", LAYOUT, root, "images")
    labels = [root / "labels" / f"{path.stem}.png" for path in images]
    return paired("gta5", root, LABEL_SETS["cityscapes"], images, labels if with_labels else None, CODINGS["gta5"])


GTA5 = Dataset(LAYOUT, (), _open)
