"""A folder of images, and of labels that are coded as a label set says: by patterns, by a list, or in a zip."""

from pathlib import Path

from plca_dist.data.datasets.dataset import Dataset
from plca_dist.data.datasets.file_reader import FileReader
from plca_dist.data.datasets.files import File
from plca_dist.data.datasets.listed import Entry, read_list
from plca_dist.data.datasets.pairing import (
    Found,
    find_images,
    image_pattern,
    index,
    labels_by_path,
    labels_by_pattern,
    one_of,
)
from plca_dist.data.datasets.pattern import IMAGES, LABELS, Pattern, key
from plca_dist.data.formats import LABEL_SUFFIXES
from plca_dist.data.label_file import find_label_set
from plca_dist.errors import UserError, nearest, printable

LAYOUT = (
    "images/NAME.png, labels/NAME.png, in subfolders too; other places with --images, --label-files and --list. Labels "
    "are coded as the label set says that you name. A zip is read in place."
)


def _open(
    root: Path,
    *,
    with_labels: bool,
    label_set: str | None = None,
    images: str | None = None,
    label_files: str | None = None,
    list_file: Path | None = None,
) -> FileReader:
    coded = find_label_set(label_set) if label_set is not None else None
    if with_labels and coded is None:
        raise UserError(f"{root}: the labels of a folder need the name of their label set; give label_set (--labels).")
    if label_files is not None and (images is None or not with_labels):
        raise UserError(f"--label-files {label_files} goes with --images, in whose labels' place it is.")
    if with_labels and images is not None and label_files is None:
        raise UserError(f"--images {images}: where their labels lie, --label-files says, or --no-labels that none do.")
    entries = read_list(list_file) if list_file else []
    labels: tuple[File, ...] | None = None
    if entries and images is None:
        found = _by_list(root, entries, list_file, with_labels)
        if with_labels:
            labels = labels_by_path(root, {path for _, _, path in found.values() if path}, found.values())
    else:
        pattern = image_pattern(images or IMAGES)
        found = find_images("folder", LAYOUT, root, pattern)
        found = _chosen(found, entries, list_file) if entries else found
        if with_labels:
            of_labels = Pattern(label_files or LABELS, LABEL_SUFFIXES, "--label-files")
            labels = labels_by_pattern(root, found, pattern, of_labels)
    files = tuple(file for _, file, _ in found.values())
    return FileReader("folder", coded, tuple(map(printable, found)), files, labels, coded.coding if coded else None)


def _chosen(found: Found, entries: list[Entry], list_file: Path | None) -> Found:
    """Those that the list names, by id or by path, in its order."""
    by_name = {key(name): id_ for id_, (path, _, _) in found.items() for name in (id_, path, path.rpartition(".")[0])}
    missing = [entry for entry in entries if key(entry.image) not in by_name]
    if missing:
        near = nearest(missing[0].image, by_name)
        raise UserError(
            f"--list {list_file}: {len(missing)} of {len(entries)} lines name no image that --images fits, first in "
            f"line {missing[0].line}: {missing[0].image}.{near}"
        )
    return {by_name[key(entry.image)]: found[by_name[key(entry.image)]] for entry in entries}


def _by_list(root: Path, entries: list[Entry], list_file: Path | None, labels_listed: bool) -> Found:
    if not root.exists():
        raise UserError(f"{root} is no folder dataset: there is no such directory. Expected layout: {LAYOUT}")
    if labels_listed and entries[0].label is None:
        raise UserError(
            f"--list {list_file} names no labels; write each behind its image, or give --images "
            "and --label-files, or --no-labels."
        )
    there = index(root, {entry.image for entry in entries})
    found: Found = {}
    for entry in entries:
        path, file = one_of(there, entry.image, f"--list {list_file}, line {entry.line}")
        id_ = entry.id or path.rpartition(".")[0]
        if id_ in found:
            raise UserError(f"--list {list_file}, line {entry.line}: more than one image is called {id_}.")
        found[id_] = (path, file, entry.label)
    return found


FOLDER = Dataset(LAYOUT, ("label_set", "images", "label_files", "list_file"), _open)
