"""Images found by a pattern, and their labels by another one or by path, also where names nearly agree."""

from collections.abc import Iterable
from pathlib import Path

from plca_dist.data.datasets.dataset import Dataset
from plca_dist.data.datasets.file_reader import FileReader
from plca_dist.data.datasets.files import File, files_below, is_folder
from plca_dist.data.datasets.listing import check_split
from plca_dist.data.datasets.pattern import Pattern, id_of, key
from plca_dist.data.formats import LABEL_SUFFIXES, OTHER_SUFFIXES, SUFFIXES
from plca_dist.data.labels import CODINGS, LABEL_SETS
from plca_dist.errors import UserError, nearest, printable, some

#: A sample's id -> the path of its image from the root, the image, and the path of its label where a list has it.
Found = dict[str, tuple[str, File, str | None]]


def image_pattern(text: str, option: str = "--images") -> Pattern:
    return Pattern(text, SUFFIXES + OTHER_SUFFIXES, option)


def find_images(dataset: str, layout: str, root: Path, pattern: Pattern) -> Found:
    """The images that the pattern fits. Raises UserError where there are none, or two of one id."""
    if not is_folder(root, pattern.folder):
        inner = [p for p in sorted(root.iterdir()) if is_folder(p, pattern.folder)] if root.is_dir() else []
        hint = f" Did you mean {inner[0]}?" if inner else ""
        what = f"{pattern.folder}/ is missing" if root.exists() else "there is no such directory"
        raise UserError(f"{root} is no {dataset} dataset: {what}.{hint} Expected layout: {layout}")
    there = files_below(root, pattern.folder)
    found: Found = {}
    for path, file in there.items():
        if (stars := pattern.match(path)) is None:
            continue
        id_ = id_of(stars)
        if id_ in found:
            raise UserError(
                f"{root}: more than one image is called {id_}: {found[id_][0]} and {path}; keep one of each name."
            )
        found[id_] = (path, file, None)
    if not found:
        seen = f"there are {some(list(there))}" if there else f"{pattern.folder or root}/ holds no image"
        raise UserError(
            f"{root} is no {dataset} dataset: {pattern.option} {pattern.text} fits nothing; {seen}. Expected layout: "
            f"{layout}"
        )
    return found


def labels_by_pattern(root: Path, found: Found, images: Pattern, labels: Pattern) -> tuple[File, ...]:
    """The labels of the images, whose paths have the text of the images' stars.

    Raises UserError for patterns of other stars, and for an image without a label or with more than one.
    """
    if labels.stars != images.stars:
        raise UserError(
            f"{labels.option} {labels.text} has {' '.join(labels.stars)} and {images.option} {images.text} has "
            f"{' '.join(images.stars)}; each star stands for the same text in both."
        )
    wanted = []
    for path, file, _ in found.values():
        stars = images.match(path)
        assert stars is not None
        wanted.append((path, file, labels.fill(stars)))
    there = set(files_below(root, labels.folder)) if is_folder(root, labels.folder) else set()
    return labels_by_path(root, there, wanted, any_suffix=labels.any_suffix)


def labels_by_path(
    root: Path, among: set[str], wanted: Iterable[tuple[str, File, str | None]], any_suffix: bool = False
) -> tuple[File, ...]:
    """The files of the wanted (image's path, image, label's path), found in the folders of the paths `among`."""
    there = index(root, among, with_suffix=not any_suffix)
    labels: list[File] = []
    missing: list[str] = []
    for path, _, label in wanted:
        assert label is not None
        place = key(label + "." if any_suffix else label, with_suffix=not any_suffix)
        candidates = there.get(place, {})
        if any_suffix:
            candidates = {p: f for p, f in candidates.items() if p.lower().endswith(LABEL_SUFFIXES)}
            candidates = {p: f for p, f in candidates.items() if p.rpartition(".")[0] == label} or candidates
        if label in candidates:
            labels.append(candidates[label])
        elif len(candidates) == 1:
            labels.append(next(iter(candidates.values())))
        elif candidates:
            raise UserError(f"{root}: {path} has more than one label: {some(list(candidates))}; keep one.")
        else:
            missing.append(f"{root / path} (label {root / label}{'.png' if any_suffix else ''})")
    if missing:
        seen = sorted(p for of in there.values() for p in of)
        near = f" There are {some(seen)}." if seen and len(missing) == len(labels) + len(missing) else ""
        raise UserError(f"{root}: no label for {some(missing)}; add the labels, or read the images without them.{near}")
    return tuple(labels)


def index(root: Path, paths: Iterable[str], with_suffix: bool = True) -> dict[str, dict[str, File]]:
    """All files in the folders of these paths, by their `key`."""
    found: dict[str, dict[str, File]] = {}
    for folder in sorted({path.rpartition("/")[0] for path in paths}):
        for path, file in files_below(root, folder).items() if is_folder(root, folder) else ():
            found.setdefault(key(path, with_suffix=with_suffix), {})[path] = file
    return found


def one_of(there: dict[str, dict[str, File]], path: str, where: str) -> tuple[str, File]:
    """The file of this path in an `index`. Raises UserError where there is none, or more than one that nearly is it."""
    candidates = there.get(key(path), {})
    if path in candidates:
        return path, candidates[path]
    if len(candidates) == 1:
        return next(iter(candidates.items()))
    if candidates:
        raise UserError(f"{where}: {path} is more than one file: {some(list(candidates))}; keep one.")
    raise UserError(f"{where}: {path} does not exist.{nearest(path, [p for of in there.values() for p in of])}")


def published(
    dataset: str, layout: str, images: str, labels: str, *, coding: str, label_set: str = "cityscapes", **splits: str
) -> Dataset:
    """A data set in its published layout.

    Args:
        layout: its files, described for a person.
        images: pattern of the images' paths, in which SPLIT stands for the folder of the split.
        labels: pattern of the labels' paths, with the same stars.
        coding: a name of CODINGS or of LABEL_SETS, which says how its labels are written.
        label_set: the classes of its shards.
        splits: folder of each split, where it has splits and calls them otherwise than "train", "val", "test".
    """
    has_splits = "SPLIT" in images

    def open_(root: Path, *, with_labels: bool, split: str | None = None) -> FileReader:
        folder = splits.get(name := check_split(dataset, split), name) if has_splits else ""
        pattern = image_pattern(images.replace("SPLIT", folder), "its images")
        found = find_images(dataset, layout, root, pattern)
        files = None
        if with_labels:
            files = labels_by_pattern(
                root, found, pattern, Pattern(labels.replace("SPLIT", folder), LABEL_SUFFIXES, "its labels")
            )
        coded = (CODINGS if coding in CODINGS else LABEL_SETS)[coding].coding
        ids = tuple(map(printable, found))
        return FileReader(dataset, LABEL_SETS[label_set], ids, tuple(f for _, f, _ in found.values()), files, coded)

    return Dataset(layout, ("split",) if has_splits else (), open_)
