"""Lists of a data set's files: text with an image a line, or an image and its label, or CSV with a header."""

import csv
import io
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from plca_dist.errors import UserError, nearest, some

_COLUMNS = ("image", "label", "id")


class Entry(NamedTuple):
    """A line: paths from the root, or with patterns an id; `line` counts from 1."""

    image: str
    label: str | None
    id: str | None
    line: int


def read_list(file: Path) -> list[Entry]:
    """The entries of a list. Raises UserError for a file that is none, and for an image that is listed twice."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"--list {file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--list {file} is no text in UTF-8 ({error.reason}).") from error
    entries = _csv(text, file) if file.suffix.lower() == ".csv" else _lines(text, file)
    if not entries:
        raise UserError(f"--list {file} lists nothing.")
    if twice := [image for image, times in Counter(entry.image for entry in entries).items() if times > 1]:
        raise UserError(f"--list {file} lists {some(twice)} more than once.")
    if len({entry.label is None for entry in entries}) > 1:
        without = next(entry for entry in entries if entry.label is None)
        raise UserError(f"--list {file}, line {without.line}: {without.image} has no label, and others have.")
    return entries


def _csv(text: str, file: Path) -> list[Entry]:
    rows = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    header = [name.strip() for name in rows.fieldnames or ()]
    if "image" not in header:
        raise UserError(
            f"--list {file}: the first line names the columns: image, and label or id where there are such."
        )
    for name in header:
        if name not in _COLUMNS and (near := nearest(name, _COLUMNS)):
            raise UserError(f"--list {file}: column {name!r} is unknown.{near}")
    rows.fieldnames = header
    found = []
    for row in rows:
        cells = {name: (row.get(name) or "").strip() or None for name in _COLUMNS}
        if not cells["image"]:
            raise UserError(f"--list {file}, line {rows.line_num}: it names no image.")
        found.append(Entry(_path(cells["image"]), cells["label"] and _path(cells["label"]), cells["id"], rows.line_num))
    return found


def _lines(text: str, file: Path) -> list[Entry]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
        if len(cells) > 2:
            raise UserError(
                f"--list {file}, line {number}: {len(cells)} columns, where an image and its label are two; names with "
                "spaces go into a .csv with the header image,label."
            )
        found.append(Entry(_path(cells[0]), _path(cells[1]) if len(cells) == 2 else None, None, number))
    return found


def _path(text: str) -> str:
    """From the root, as published lists also write `/images/x.png` and `./images/x.png`."""
    return text.replace("\\", "/").removeprefix("./").lstrip("/")
