"""Cityscapes (Cordts et al., CVPR 2016): streets of 50 cities, with the label ids of its official evaluator."""

from pathlib import Path

from plca_dist.data.datasets.dataset import Dataset
from plca_dist.data.datasets.file_reader import FileReader
from plca_dist.data.datasets.listing import check_split, list_images, paired
from plca_dist.data.labels import CODINGS, LABEL_SETS

LAYOUT = (
    "leftImg8bit/SPLIT/CITY/CITY_SEQ_FRAME_leftImg8bit.png, "
    "gtFine/SPLIT/CITY/CITY_SEQ_FRAME_gtFine_labelIds.png; SPLIT is train, val or test."
)
_IMAGE = "_leftImg8bit"
_LABEL = "_gtFine_labelIds.png"


def _open(root: Path, *, with_labels: bool, split: str | None = None) -> FileReader:
    split = check_split("cityscapes", split)
    images = list_images("cityscapes", LAYOUT, root, f"leftImg8bit/{split}", f"*/*{_IMAGE}")
    ids = [path.stem[: -len(_IMAGE)] for path in images]
    folder = root / "gtFine" / split
    labels = [folder / path.parent.name / f"{id_}{_LABEL}" for path, id_ in zip(images, ids, strict=True)]
    coded = CODINGS["cityscapes_label_ids"]
    return paired("cityscapes", root, LABEL_SETS["cityscapes"], images, labels if with_labels else None, coded, ids)


CITYSCAPES = Dataset(LAYOUT, ("split",), _open)
