"""CamVid (Brostow et al., 2009) with 11 classes, in the layout of SegNet's authors: train ids, 11 ignored."""

from pathlib import Path

from plca_dist.data.datasets.dataset import Dataset
from plca_dist.data.datasets.file_reader import FileReader
from plca_dist.data.datasets.listing import check_split, list_images, paired
from plca_dist.data.labels import CODINGS, LABEL_SETS

LAYOUT = "SPLIT/NAME.jpg or .png, SPLITannot/NAME.png; SPLIT is train, val or test."


def _open(root: Path, *, with_labels: bool, split: str | None = None) -> FileReader:
    split = check_split("camvid", split)
    images = list_images("camvid", LAYOUT, root, split)
    labels = [root / f"{split}annot" / f"{path.stem}.png" for path in images]
    return paired(
        "camvid", root, LABEL_SETS["camvid"], images, labels if with_labels else None, CODINGS["camvid_segnet"]
    )


CAMVID = Dataset(LAYOUT, ("split",), _open)
