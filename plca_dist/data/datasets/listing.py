"""Which image files and label files a data set has.

Only names are looked at, so that a wrong root or a missing label is found before anything is read.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from plca_dist.data.datasets.file_reader import FileReader, LabelCode
from plca_dist.data.labels import LabelSet
from plca_dist.errors import UserError, nearest

SPLITS = ("train", "val", "test")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def check_split(dataset: str, split: str | None) -> str:
    """The split, where it is one of SPLITS. Raises UserError otherwise."""
    if split not in SPLITS:
        raise UserError(f"{dataset} split {split!r}: give one of {', '.join(SPLITS)}.{nearest(split or '', SPLITS)}")
    return split


def list_images(dataset: str, layout: str, root: Path, below: str, pattern: str) -> list[Path]:
    """The image files `root/below/pattern`, sorted.

    layout: told to the person in a UserError, where there are none.
    """
    folder = root / below
    if not folder.is_dir():
        inner = [p for p in sorted(root.iterdir()) if (p / below).is_dir()] if root.is_dir() else []
        hint = f" Did you mean {inner[0]}?" if inner else ""
        what = f"{below}/ is missing" if root.is_dir() else "there is no such directory"
        raise UserError(f"{root} is no {dataset} dataset: {what}.{hint} Expected layout: {layout}")
    images = sorted(path for path in folder.glob(pattern) if path.suffix.lower() in _IMAGE_SUFFIXES)
    if not images:
        raise UserError(f"{root} is no {dataset} dataset: {below}/ holds no {pattern} image. Expected layout: {layout}")
    return images


def paired(
    dataset: str,
    root: Path,
    classes: LabelSet | None,
    images: list[Path],
    labels: list[Path] | None,
    code: LabelCode,
    ids: list[str] | None = None,
) -> FileReader:
    """The reader of `images` with `labels`, None for images alone.

    `ids` None: the images' names without their endings. Raises UserError for an id given twice and a missing label.
    """
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
    """What exists in the folders of these paths. Asking for each of 25 000 files is slow on a network drive."""
    folders = {path.parent for path in paths}
    return {path for folder in folders if folder.is_dir() for path in folder.iterdir()}
