"""SYNTHIA-RAND-CITYSCAPES (Ros et al., CVPR 2016): drawn streets, with class numbers of their own."""

from pathlib import Path

from plca_dist.data.datasets.dataset import Dataset
from plca_dist.data.datasets.file_reader import FileReader
from plca_dist.data.datasets.listing import list_images, paired
from plca_dist.data.labels import CODINGS, LABEL_SETS

LAYOUT = "RGB/0000000.png, GT/LABELS/0000000.png (RAND_CITYSCAPES)."


def _open(root: Path, *, with_labels: bool) -> FileReader:
    images = list_images("synthia", LAYOUT, root, "RGB")
    labels = [root / "GT" / "LABELS" / f"{path.stem}.png" for path in images]
    coded = CODINGS["synthia_rand_cityscapes"]
    return paired("synthia", root, LABEL_SETS["synthia"], images, labels if with_labels else None, coded)


SYNTHIA = Dataset(LAYOUT, (), _open)
