"""Which image files and label files a data set has.

Only names are looked at, so that a wrong root or a missing label is found before anything is read. A name that ends as
that of a picture is an image's, also where the format is none that is read: reading it says so. Hidden files (`._x.png`
of a Mac's archive) are no images.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from plca_dist.data.datasets.file_reader import FileReader
from plca_dist.data.formats import OTHER_SUFFIXES, SUFFIXES
from plca_dist.data.labels import LabelSet
from plca_dist.errors import UserError, nearest, printable, some

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


def check_split(dataset: str, split: str | None) -> str:
    """The split, where it is one of SPLITS. Raises UserError otherwise."""
    if split not in SPLITS:
        raise UserError(f"{dataset} split {split!r}: give one of {', '.join(SPLITS)}.{nearest(split or '', SPLITS)}")
    return split


def list_images(dataset: str, layout: str, root: Path, below: str, pattern: str = "*") -> list[Path]:
    """The image files `root/below/pattern`, sorted; images of another name are warned of.

    Args:
        layout: told to the person in a UserError, where there are none.
        pattern: of the names without their endings; upper case counts as lower case.
    """
    folder = root / below
    if not folder.is_dir():
        inner = [p for p in sorted(root.iterdir()) if (p / below).is_dir()] if root.is_dir() else []
        hint = f" Did you mean {inner[0]}?" if inner else ""
        what = f"{below}/ is missing" if root.is_dir() else "there is no such directory"
        raise UserError(f"{root} is no {dataset} dataset: {what}.{hint} Expected layout: {layout}")
    folders, _, name = pattern.rpartition("/")
    pictures = sorted(
        path
        for path in folder.glob(f"{folders}/*" if folders else "*")
        if path.suffix.lower() in SUFFIXES + OTHER_SUFFIXES and not path.name.startswith(".")
    )
    images = [path for path in pictures if fnmatch(path.stem.lower(), name.lower())]
    if not images:
        what = "image" if pattern == "*" else f"{pattern} image"
        raise UserError(f"{root} is no {dataset} dataset: {below}/ holds no {what}. Expected layout: {layout}")
    if others := sorted(set(pictures) - set(images)):
        log.warning("%s: left out, as it is no %s: %s", folder, pattern, some(others))
    return images


def paired(
    dataset: str,
    root: Path,
    classes: LabelSet | None,
    images: list[Path],
    labels: list[Path] | None,
    coded: LabelSet,
    ids: list[str] | None = None,
) -> FileReader:
    """The reader of `images` with `labels`, None for images alone; `coded` says how label files are written.

    `ids` None: the images' names without their endings. Raises UserError for an id given twice and a missing label.
    """
    ids = [printable(id_) for id_ in ids or [path.stem for path in images]]
    twice = [id_ for id_, times in Counter(ids).items() if times > 1]
    if twice:
        raise UserError(f"{root}: more than one image is called {', '.join(twice[:3])}; keep one of each name.")
    if labels is not None:
        present = _present(labels)
        missing = [
            f"{image} (label {label})" for image, label in zip(images, labels, strict=True) if label not in present
        ]
        if missing:
            raise UserError(f"{root}: no label for {some(missing)}; add the labels, or read the images without them.")
        labels = [present[label] for label in labels]
    files = tuple(labels) if labels is not None else None
    return FileReader(dataset, classes, tuple(ids), tuple(images), files, coded.coding)


def _present(paths: Iterable[Path]) -> dict[Path, Path]:
    """What exists in the folders of these paths, by itself and by its name with the ending in lower case.

    Asking for each of 25 000 files is slow on a network drive.
    """
    folders = {path.parent for path in paths}
    found = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    return {path.with_suffix(path.suffix.lower()): path for path in found} | {path: path for path in found}
