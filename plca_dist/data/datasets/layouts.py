"""Raw datasets in their published layouts -> readers of samples.

`open_dataset` looks at names only, so that a wrong root or a missing label is found before anything is read; what is
inside the files is checked sample by sample (`samples.FileReader`).
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plca_dist.data.codec import first_channel, index_image
from plca_dist.data.datasets.samples import FileReader, LabelCode, Reader, value_table
from plca_dist.data.datasets.toytown import open_toytown
from plca_dist.data.labels import CITYSCAPES_CLASSES, IGNORE, LABEL_SETS, LabelSet, label_set
from plca_dist.errors import UserError, nearest

#: SYNTHIA's class number -> Cityscapes name; its other numbers up to 22 have no counterpart in the benchmark.
SYNTHIA_VALUES = {
    1: "sky", 2: "building", 3: "road", 4: "sidewalk", 5: "fence", 6: "vegetation", 7: "pole", 8: "car",
    9: "traffic sign", 10: "person", 11: "bicycle", 12: "motorcycle", 15: "traffic light", 17: "rider", 19: "bus",
    21: "wall",
}  # fmt: skip
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_CITYSCAPES_IMAGE = "_leftImg8bit.png"
_CITYSCAPES_LABEL = "_gtFine_labelIds.png"


@dataclass(frozen=True)
class Dataset:
    """One kind of dataset that can be opened.

    `layout` is what a person is told about its files; `options` are the arguments of `open_dataset` that it takes
    beyond `root` and `with_labels`.
    """

    layout: str
    options: tuple[str, ...]
    open: Callable[..., Reader]


def open_dataset(
    name: str,
    root: Path | None = None,
    split: str | None = None,
    *,
    with_labels: bool = True,
    label_set: str | None = None,
    count: int | None = None,
    seed: int | None = None,
    size: tuple[int, int] | None = None,
) -> Reader:
    """The dataset `name` (a key of DATASETS) below the directory `root`.

    Args:
        name: which layout to expect.
        root: the dataset's directory; toytown has none, it is drawn.
        split: "train", "val" or "test" of cityscapes and camvid; "source" or "target" of toytown.
        with_labels: False leaves label files alone; they need not exist then.
        label_set: name of the label set that the labels of a `folder` are written in.
        count: number of toytown scenes, default 400.
        seed: which toytown scenes, default 0.
        size: height and width of toytown scenes, default (96, 192).

    Raises:
        UserError: for an unknown name, an option the dataset does not have, a root that is not this dataset, or an
            image whose label is missing.
    """
    if name not in DATASETS:
        raise UserError(f"dataset {name!r} is unknown; known: {', '.join(DATASETS)}.{nearest(name, DATASETS)}")
    dataset = DATASETS[name]
    given: dict[str, Any] = {"split": split, "label_set": label_set, "count": count, "seed": seed, "size": size}
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


def _gta5(root: Path, *, with_labels: bool) -> FileReader:
    images = _listed("gta5", root, "images", "*.png")
    labels = [root / "labels" / path.name for path in images]
    return _reader("gta5", root, LABEL_SETS["cityscapes"], images, labels if with_labels else None, _GTA5_CODE)


def _synthia(root: Path, *, with_labels: bool) -> FileReader:
    images = _listed("synthia", root, "RGB", "*.png")
    labels = [root / "GT" / "LABELS" / path.name for path in images]
    return _reader("synthia", root, LABEL_SETS["synthia"], images, labels if with_labels else None, _SYNTHIA_CODE)


def _cityscapes(root: Path, *, with_labels: bool, split: str | None = None) -> FileReader:
    split = _split("cityscapes", split)
    images = _listed("cityscapes", root, f"leftImg8bit/{split}", f"*/*{_CITYSCAPES_IMAGE}")
    ids = [path.name.removesuffix(_CITYSCAPES_IMAGE) for path in images]
    labels = [
        root / "gtFine" / split / path.parent.name / f"{id_}{_CITYSCAPES_LABEL}"
        for path, id_ in zip(images, ids, strict=True)
    ]
    return _reader(
        "cityscapes", root, LABEL_SETS["cityscapes"], images, labels if with_labels else None, _CITYSCAPES_CODE, ids
    )


def _camvid(root: Path, *, with_labels: bool, split: str | None = None) -> FileReader:
    split = _split("camvid", split)
    images = _listed("camvid", root, split, "*")
    labels = [root / f"{split}annot" / f"{path.stem}.png" for path in images]
    return _reader("camvid", root, LABEL_SETS["camvid"], images, labels if with_labels else None, _CAMVID_CODE)


def _folder(root: Path, *, with_labels: bool, label_set: str | None = None) -> FileReader:
    images = _listed("folder", root, "images", "*")
    if not with_labels:
        return _reader("folder", root, _named_set(label_set), images, None, LabelCode(index_image, value_table({}, [])))
    classes = _named_set(label_set)
    if classes is None:
        raise UserError(f"{root}: the labels of a folder need the name of their label set; give label_set.")
    labels = [root / "labels" / f"{path.stem}.png" for path in images]
    values = {i: i for i in range(len(classes))}
    return _reader("folder", root, classes, images, labels, LabelCode(index_image, value_table(values, [IGNORE])))


def _named_set(name: str | None) -> LabelSet | None:
    return None if name is None else label_set(name)


def _split(dataset: str, split: str | None) -> str:
    known = ("train", "val", "test")
    if split not in known:
        raise UserError(f"{dataset} split {split!r}: give one of {', '.join(known)}.{nearest(split or '', known)}")
    return split


def _listed(dataset: str, root: Path, below: str, pattern: str) -> list[Path]:
    """The image files `root/below/pattern`, sorted; UserError where there are none."""
    folder = root / below
    if not folder.is_dir():
        inner = [p for p in sorted(root.iterdir()) if (p / below).is_dir()] if root.is_dir() else []
        hint = f" Did you mean {inner[0]}?" if inner else ""
        what = f"{below}/ is missing" if root.is_dir() else "there is no such directory"
        raise UserError(f"{root} is no {dataset} dataset: {what}.{hint} Expected layout: {DATASETS[dataset].layout}")
    images = sorted(path for path in folder.glob(pattern) if path.suffix.lower() in _IMAGE_SUFFIXES)
    if not images:
        raise UserError(
            f"{root} is no {dataset} dataset: {below}/ holds no {pattern} image. "
            f"Expected layout: {DATASETS[dataset].layout}"
        )
    return images


def _reader(
    dataset: str,
    root: Path,
    classes: LabelSet | None,
    images: list[Path],
    labels: list[Path] | None,
    code: LabelCode,
    ids: list[str] | None = None,
) -> FileReader:
    ids = ids or [path.stem for path in images]
    twice = [id_ for id_, times in Counter(ids).items() if times > 1]
    if twice:
        raise UserError(f"{root}: more than one image is called {', '.join(twice[:3])}; keep one of each name.")
    if labels is not None:
        present = _present(labels)
        missing = [
            f"{image} (label {label})" for image, label in zip(images, labels, strict=True) if label not in present
        ]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise UserError(
                f"{root}: no label for {', '.join(missing[:3])}{more}; add the labels, or read the images without them."
            )
    return FileReader(dataset, classes, tuple(ids), tuple(images), tuple(labels) if labels is not None else None, code)


def _present(paths: Iterable[Path]) -> set[Path]:
    """Those that exist, with one listing a directory: a look at each of 25 000 files is slow on a network drive."""
    folders = {path.parent for path in paths}
    return {found for folder in folders if folder.is_dir() for found in folder.iterdir()}


def _by_name(values: dict[int, str], classes: LabelSet) -> dict[int, int]:
    return {raw: classes.classes.index(name) for raw, name in values.items()}


_LABEL_IDS = {label_id: name for name, (label_id, _) in CITYSCAPES_CLASSES.items()}
#: GTA5 writes Cityscapes' licence plate, label id -1, as 34; Cityscapes itself as 255.
_GTA5_CODE = LabelCode(index_image, value_table(_by_name(_LABEL_IDS, LABEL_SETS["cityscapes"]), range(35)))
_CITYSCAPES_CODE = LabelCode(
    index_image, value_table(_by_name(_LABEL_IDS, LABEL_SETS["cityscapes"]), [*range(34), 255])
)
_SYNTHIA_CODE = LabelCode(first_channel, value_table(_by_name(SYNTHIA_VALUES, LABEL_SETS["synthia"]), range(23)))
_CAMVID_CODE = LabelCode(index_image, value_table({i: i for i in range(11)}, [11]))

#: Name -> what can be opened under it.
DATASETS: dict[str, Dataset] = {
    "gta5": Dataset("images/00001.png, labels/00001.png (the published *_images.zip and *_labels.zip).", (), _gta5),
    "synthia": Dataset("RGB/0000000.png, GT/LABELS/0000000.png (RAND_CITYSCAPES).", (), _synthia),
    "cityscapes": Dataset(
        "leftImg8bit/SPLIT/CITY/CITY_SEQ_FRAME_leftImg8bit.png, "
        "gtFine/SPLIT/CITY/CITY_SEQ_FRAME_gtFine_labelIds.png; SPLIT is train, val or test.",
        ("split",),
        _cityscapes,
    ),
    "camvid": Dataset("SPLIT/NAME.jpg or .png, SPLITannot/NAME.png; SPLIT is train, val or test.", ("split",), _camvid),
    "folder": Dataset(
        "images/NAME.png or .jpg, labels/NAME.png (train ids of the label set you name, 255 ignored).",
        ("label_set",),
        _folder,
    ),
    "toytown": Dataset(
        "none: street scenes drawn on the spot, split source (plain) or target (textured).",
        ("split", "count", "seed", "size"),
        open_toytown,
    ),
}
