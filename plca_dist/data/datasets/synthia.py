"""SYNTHIA-RAND-CITYSCAPES (Ros et al., CVPR 2016): drawn streets, with class numbers of their own."""

from pathlib import Path

from plca_dist.data.codec import first_channel
from plca_dist.data.datasets.dataset import Dataset
from plca_dist.data.datasets.file_reader import FileReader, LabelCode, value_table
from plca_dist.data.datasets.listing import list_images, paired
from plca_dist.data.labels import LABEL_SETS

LAYOUT = "RGB/0000000.png, GT/LABELS/0000000.png (RAND_CITYSCAPES)."
#: SYNTHIA's class number -> Cityscapes name; its other numbers up to 22 have no counterpart in the benchmark.
SYNTHIA_VALUES = {
    1: "sky", 2: "building", 3: "road", 4: "sidewalk", 5: "fence", 6: "vegetation", 7: "pole", 8: "car",
    9: "traffic sign", 10: "person", 11: "bicycle", 12: "motorcycle", 15: "traffic light", 17: "rider", 19: "bus",
    21: "wall",
}  # fmt: skip
_CLASSES = LABEL_SETS["synthia"].classes
_CODE = LabelCode(
    first_channel, value_table({number: _CLASSES.index(name) for number, name in SYNTHIA_VALUES.items()}, range(23))
)


def _open(root: Path, *, with_labels: bool) -> FileReader:
    images = list_images("synthia", LAYOUT, root, "RGB")
    labels = [root / "GT" / "LABELS" / f"{path.stem}.png" for path in images]
    return paired("synthia", root, LABEL_SETS["synthia"], images, labels if with_labels else None, _CODE)


SYNTHIA = Dataset(LAYOUT, (), _open)
