"""A folder of images, and of labels that are coded as a label set says: by patterns, by a list, or in a zip."""

from collections.abc import Iterable
from pathlib import Path

from plca_dist.data.datasets.dataset import Dataset
from plca_dist.data.datasets.file_reader import FileReader
from plca_dist.data.datasets.files import File, files_below, is_folder
from plca_dist.data.datasets.listed import Entry, read_list
from plca_dist.data.datasets.pattern import Pattern, id_of, key
from plca_dist.data.formats import LABEL_SUFFIXES, OTHER_SUFFIXES, SUFFIXES
from plca_dist.data.label_file import find_label_set
from plca_dist.errors import UserError, nearest, printable, some

LAYOUT = (
    "images/NAME.png, labels/NAME.png, in subfolders too; other places with --images, --label-files and --list. Labels "
    "are coded as the label set says that you name. A zip is read in place."
)
IMAGES, LABELS = "images/**/*", "labels/**/*"
#: A sample's id -> its image and the path of its label.
_Found = dict[str, tuple[str, File, str | None]]


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
    entries = read_list(list_file) if list_file else []
    labels: tuple[File, ...] | None
    if entries and images is None:
        found = _by_list(root, entries, list_file, with_labels)
    else:
        found = _by_pattern(root, Pattern(images or IMAGES, SUFFIXES + OTHER_SUFFIXES, "--images"), entries, list_file)
    if not with_labels:
        labels = None
    elif entries and images is None:
        labels = _labels(root, {path for _, _, path in found.values() if path}, found.values())
    else:
        labels = _labels_by_pattern(root, found, images or IMAGES, label_files)
    ids = tuple(map(printable, found))
    return FileReader(
        "folder", coded, ids, tuple(f for _, f, _ in found.values()), labels, coded.coding if coded else None
    )


def _by_pattern(root: Path, pattern: Pattern, entries: list[Entry], list_file: Path | None) -> _Found:
    if not is_folder(root, pattern.folder):
        inner = [p for p in sorted(root.iterdir()) if (p / pattern.folder).is_dir()] if root.is_dir() else []
        hint = f" Did you mean {inner[0]}?" if inner else ""
        what = f"{pattern.folder}/ is missing" if root.exists() else "there is no such directory"
        raise UserError(f"{root} is no folder dataset: {what}.{hint} Expected layout: {LAYOUT}")
    there = files_below(root, pattern.folder)
    found: _Found = {}
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
        seen = f"; there are {some(list(there))}" if there else ""
        what = (
            f"{pattern.folder}/ holds no image" if pattern.text == IMAGES else f"--images {pattern.text} fits nothing"
        )
        raise UserError(f"{root} is no folder dataset: {what}{seen}. Expected layout: {LAYOUT}")
    return _chosen(found, entries, list_file) if entries else found


def _chosen(found: _Found, entries: list[Entry], list_file: Path | None) -> _Found:
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


def _by_list(root: Path, entries: list[Entry], list_file: Path | None, labels_listed: bool) -> _Found:
    if not root.exists():
        raise UserError(f"{root} is no folder dataset: there is no such directory. Expected layout: {LAYOUT}")
    if labels_listed and entries[0].label is None:
        raise UserError(
            f"--list {list_file} names no labels; write each behind its image, or give --images "
            "and --label-files, or --no-labels."
        )
    there = _index(root, {entry.image for entry in entries})
    found: _Found = {}
    for entry in entries:
        path, file = _one(there, entry.image, f"--list {list_file}, line {entry.line}")
        id_ = entry.id or path.rpartition(".")[0]
        if id_ in found:
            raise UserError(f"--list {list_file}, line {entry.line}: more than one image is called {id_}.")
        found[id_] = (path, file, entry.label)
    return found


def _labels_by_pattern(root: Path, found: _Found, images: str, label_files: str | None) -> tuple[File, ...]:
    text = label_files or LABELS
    pattern = Pattern(text, LABEL_SUFFIXES, "--label-files")
    source = Pattern(images, SUFFIXES + OTHER_SUFFIXES, "--images")
    if label_files is None and images != IMAGES:
        raise UserError(f"--images {images}: where their labels lie, --label-files says, or --no-labels that none do.")
    if pattern.stars != source.stars:
        raise UserError(
            f"--label-files {text} has {' '.join(pattern.stars)} and --images {source.text} has "
            f"{' '.join(source.stars)}; each star stands for the same text in both."
        )
    wanted = []
    for path, file, _ in found.values():
        stars = source.match(path)
        assert stars is not None
        wanted.append((path, file, pattern.fill(stars)))
    there = set(files_below(root, pattern.folder)) if is_folder(root, pattern.folder) else set()
    return _labels(root, there, wanted, any_suffix=pattern.any_suffix)


def _labels(
    root: Path, folder_paths: set[str], wanted: Iterable[tuple[str, File, str | None]], any_suffix: bool = False
) -> tuple[File, ...]:
    there = _index(root, folder_paths, with_suffix=not any_suffix)
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


def _index(root: Path, paths: Iterable[str], with_suffix: bool = True) -> dict[str, dict[str, File]]:
    """All files in the folders of these paths, by their `key`."""
    found: dict[str, dict[str, File]] = {}
    for folder in sorted({path.rpartition("/")[0] for path in paths}):
        for path, file in files_below(root, folder).items() if is_folder(root, folder) else ():
            found.setdefault(key(path, with_suffix=with_suffix), {})[path] = file
    return found


def _one(there: dict[str, dict[str, File]], path: str, where: str) -> tuple[str, File]:
    candidates = there.get(key(path), {})
    if path in candidates:
        return path, candidates[path]
    if len(candidates) == 1:
        return next(iter(candidates.items()))
    if candidates:
        raise UserError(f"{where}: {path} is more than one file: {some(list(candidates))}; keep one.")
    raise UserError(f"{where}: {path} does not exist.{nearest(path, [p for of in there.values() for p in of])}")


FOLDER = Dataset(LAYOUT, ("label_set", "images", "label_files", "list_file"), _open)
