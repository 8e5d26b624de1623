"""Every data set that can be opened, by its name."""

from pathlib import Path
from typing import Any

from plca_dist.data.datasets.acdc import ACDC
from plca_dist.data.datasets.bdd100k import BDD100K
from plca_dist.data.datasets.camvid import CAMVID
from plca_dist.data.datasets.carla import CARLA
from plca_dist.data.datasets.cityscapes import CITYSCAPES
from plca_dist.data.datasets.dataset import Dataset, Reader
from plca_dist.data.datasets.folder import FOLDER
from plca_dist.data.datasets.gta5 import GTA5
from plca_dist.data.datasets.idd import IDD, IDD_LITE
from plca_dist.data.datasets.mapillary_vistas import MAPILLARY_VISTAS
from plca_dist.data.datasets.synscapes import SYNSCAPES
from plca_dist.data.datasets.synthia import SYNTHIA
from plca_dist.data.datasets.toytown import TOYTOWN
from plca_dist.data.datasets.virtual_kitti import VIRTUAL_KITTI
from plca_dist.errors import UserError, nearest

DATASETS: dict[str, Dataset] = {
    "gta5": GTA5,
    "synthia": SYNTHIA,
    "cityscapes": CITYSCAPES,
    "camvid": CAMVID,
    "idd": IDD,
    "idd_lite": IDD_LITE,
    "bdd100k": BDD100K,
    "acdc": ACDC,
    "mapillary_vistas": MAPILLARY_VISTAS,
    "carla": CARLA,
    "virtual_kitti": VIRTUAL_KITTI,
    "synscapes": SYNSCAPES,
    "folder": FOLDER,
    "toytown": TOYTOWN,
}


def open_dataset(
    name: str,
    root: Path | None = None,
    split: str | None = None,
    *,
    with_labels: bool = True,
    label_set: str | None = None,
    images: str | None = None,
    label_files: str | None = None,
    list_file: Path | None = None,
    count: int | None = None,
    seed: int | None = None,
    size: tuple[int, int] | None = None,
) -> Reader:
    """The data set `name` (a key of DATASETS) below the directory `root`.

    Args:
        root: the data set's directory; toytown has none, it is drawn.
        split: "train", "val" or "test" of cityscapes and camvid; "source" or "target" of toytown.
        with_labels: False leaves label files alone; they need not exist then.
        label_set: of a `folder`, the name or file of the label set that its labels are coded as.
        images: of a `folder`, the pattern of its images' paths; see `pattern.py`.
        label_files: of a `folder`, the pattern of its labels' paths, with the same stars.
        list_file: of a `folder`, a text or CSV file with its images; see `listed.py`.
        count: number of toytown scenes, default 400.
        seed: which toytown scenes, default 0.
        size: height and width of toytown scenes, default (96, 192).

    Raises:
        UserError: for an unknown name, an option that the data set does not have, a root that is not this data set,
            or an image whose label is missing.
    """
    if name not in DATASETS:
        raise UserError(f"dataset {name!r} is unknown; known: {', '.join(DATASETS)}.{nearest(name, DATASETS)}")
    dataset = DATASETS[name]
    given: dict[str, Any] = {
        "split": split, "label_set": label_set, "images": images, "label_files": label_files, "list_file": list_file,
        "count": count, "seed": seed, "size": size,
    }  # fmt: skip
    given = {option: value for option, value in given.items() if value is not None}
    for option in given:
        if option not in dataset.options:
            takes = f"it takes {', '.join(dataset.options)}" if dataset.options else "it takes no such option"
            raise UserError(f"{name} has no {option} to choose ({given[option]!r} was given); {takes}.")
    if name == "toytown":
        if root is not None:
            raise UserError(f"toytown is drawn, not read; leave out the root {root}.")
        return dataset.open(with_labels=with_labels, **given)
    if root is None:
        raise UserError(f"{name} needs the directory it lies in. Expected layout: {dataset.layout}")
    return dataset.open(Path(root), with_labels=with_labels, **given)
