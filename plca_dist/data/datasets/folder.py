"""A plain folder of images, and of labels that hold the train ids of a label set."""

from pathlib import Path

from plca_dist.data.codec import index_image
from plca_dist.data.datasets.dataset import Dataset
from plca_dist.data.datasets.file_reader import FileReader, LabelCode, value_table
from plca_dist.data.datasets.listing import list_images, paired
from plca_dist.data.labels import IGNORE
from plca_dist.data.labels import label_set as label_set_called
from plca_dist.errors import UserError

LAYOUT = "images/NAME.png or .jpg, labels/NAME.png (train ids of the label set you name, 255 ignored)."


def _open(root: Path, *, with_labels: bool, label_set: str | None = None) -> FileReader:
    images = list_images("folder", LAYOUT, root, "images")
    classes = label_set_called(label_set) if label_set is not None else None
    if not with_labels:
        return paired("folder", root, classes, images, None, LabelCode(index_image, value_table({}, [])))
    if classes is None:
        raise UserError(f"{root}: the labels of a folder need the name of their label set; give label_set.")
    labels = [root / "labels" / f"{path.stem}.png" for path in images]
    values = {i: i for i in range(len(classes))}
    return paired("folder", root, classes, images, labels, LabelCode(index_image, value_table(values, [IGNORE])))


FOLDER = Dataset(LAYOUT, ("label_set",), _open)
