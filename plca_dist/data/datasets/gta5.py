"""GTA5 (Richter et al., "Playing for Data", ECCV 2016): frames of a game, with Cityscapes' label ids."""

from pathlib import Path

from plca_dist.data.codec import index_image
from plca_dist.data.datasets.cityscapes import TRAIN_IDS
from plca_dist.data.datasets.dataset import Dataset
from plca_dist.data.datasets.file_reader import FileReader, LabelCode, value_table
from plca_dist.data.datasets.listing import list_images, paired
from plca_dist.data.labels import LABEL_SETS

LAYOUT = "images/00001.png, labels/00001.png (the published *_images.zip and *_labels.zip)."
#: GTA5 writes Cityscapes' licence plate, label id -1, as 34; Cityscapes itself as 255.
_CODE = LabelCode(index_image, value_table(TRAIN_IDS, range(35)))


def _open(root: Path, *, with_labels: bool) -> FileReader:
    images = list_images("gta5", LAYOUT, root, "images")
    labels = [root / "labels" / f"{path.stem}.png" for path in images]
    return paired("gta5", root, LABEL_SETS["cityscapes"], images, labels if with_labels else None, _CODE)


GTA5 = Dataset(LAYOUT, (), _open)
