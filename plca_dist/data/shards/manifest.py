"""`manifest.json`, which makes a directory of shards a data set.

It names every shard and is written last: a directory without one is no data set, or not yet.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from plca_dist.data.codes import drawn_palette
from plca_dist.data.label_record import of_record
from plca_dist.data.labels import LabelSet
from plca_dist.data.shards.statistics import Statistics, summary
from plca_dist.errors import UserError, counted, first_line
from plca_dist.storage import Store

MANIFEST = "manifest.json"
#: Version of the shards' layout. It is raised when an older reader would misread new shards.
SCHEMA = 1
#: Of a shard's file: a name of another form could lie elsewhere.
SHARD_NAME = r"^shard-[0-9]{5,}\.parquet$"


@dataclass(frozen=True)
class Shard:
    """One Parquet file: its name, rows, size, SHA-256, and the rows in each of its row groups.

    `checksums`: CRC-32 of the bytes of each row group, and last of those after them, which are the footer. Empty in
    data sets of older versions.
    """

    name: Annotated[str, Field(pattern=SHARD_NAME)]
    rows: Annotated[int, Field(ge=0)]
    bytes: Annotated[int, Field(ge=0)]
    sha256: str
    row_groups: tuple[Annotated[int, Field(ge=1)], ...]
    checksums: tuple[int, ...] = ()


@dataclass(frozen=True)
class Skipped:
    """A sample that was left out, and the reason."""

    id: str
    reason: str


@dataclass(frozen=True)
class Encoded:
    """The form that images were encoded in (see `forms.Encoding`), and whether they kept their pixels."""

    form: str
    max_edge: int | None
    lossless: bool

    def __str__(self) -> str:
        smaller = f", at most {counted(self.max_edge, 'pixels')} long" if self.max_edge else ""
        return f"images as {self.form}{smaller} ({'the same pixels' if self.lossless else 'lossy'})"


class RowGroup(NamedTuple):
    """Row group `group` of shard number `shard`: `rows` rows, the first of them global row `first_row`."""

    shard: int
    group: int
    rows: int
    first_row: int


@dataclass(frozen=True)
class Manifest:
    """The content of a shard directory.

    Attributes:
        dataset: name of the data set that the shards were made from.
        label_set: name of the label set of its train ids; None only for unlabelled shards.
        classes: class names in train-id order. They count, not the name, should a label set of that name ever change.
        with_labels: whether the shards have a label column.
        rows: number of samples in all shards.
        shards: in the order of their rows' numbers.
        skipped: broken samples that were left out.
        inputs: fingerprint of the raw data and of the settings that the shards were written with.
        schema: version of the shards' layout.
        statistics: of the samples; None of shards of older versions.
        encoding: None where images are the files as they came.
        own_labels: record of the label set, of shards written from now on (see `label_file.record`).
    """

    dataset: str
    label_set: str | None
    classes: Annotated[tuple[str, ...], Field(max_length=255)]
    with_labels: bool
    rows: int
    shards: tuple[Shard, ...]
    skipped: tuple[Skipped, ...]
    inputs: str
    schema: int = SCHEMA
    statistics: Statistics | None = None
    own_labels: dict[str, Any] | None = None
    encoding: Encoded | None = None

    @cached_property
    def labels(self) -> LabelSet:
        """The label set of the train ids, as far as it is recorded; without classes for unlabelled shards."""
        if self.own_labels:
            return of_record(self.own_labels, MANIFEST)
        return LabelSet(self.label_set or "", self.classes, drawn_palette(len(self.classes)))

    @cached_property
    def row_groups(self) -> tuple[RowGroup, ...]:
        """Every row group of the data set, in row order."""
        groups, first = [], 0
        for shard, entry in enumerate(self.shards):
            for group, rows in enumerate(entry.row_groups):
                groups.append(RowGroup(shard, group, rows, first))
                first += rows
        return tuple(groups)

    def fingerprint(self) -> str:
        """A hash of the shards' content: equal where training on them is the same."""
        content: list[Any] = [self.classes, self.with_labels, [(s.sha256, s.row_groups) for s in self.shards]]
        if self.with_labels and self.labels.same_as:  # they decide which classes of a recipe these become
            content.append(self.labels.same_as)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def extent(self) -> str:
        """Samples and shards, in words."""
        return f"{counted(self.rows, 'samples')} in {counted(len(self.shards), 'shards')}"

    def summary(self) -> str:
        """One line for a person."""
        left_out = f"; left out as broken: {', '.join(s.id for s in self.skipped)}" if self.skipped else ""
        labels = f"labels of {self.label_set!r}" if self.with_labels else "no labels"
        size = sum(s.bytes for s in self.shards) / 2**20
        form = f", {self.encoding}" if self.encoding else ""
        return f"{self.extent}, {size:.1f} MiB, {labels}{form}{left_out}"

    def contents(self) -> list[str]:
        """Lines for a person about the samples; none for shards of older versions."""
        return summary(self.statistics, self.labels) if self.statistics else []

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False).encode()


def read_manifest(store: Store) -> Manifest:
    """The manifest of a shard directory.

    Raises:
        UserError: when there is none, it is damaged, contradicts itself, or was written by a newer version.
    """
    where = f"{store.uri}/{MANIFEST}"
    if not store.exists(MANIFEST):
        raise UserError(
            f"no {MANIFEST} under {store.uri}: it is no shard directory, or writing it did not finish; "
            "run `plca shards` for it (again)."
        )
    data = store.read(MANIFEST)
    try:
        schema = _VERSION.validate_json(data, strict=True).schema
        if schema > SCHEMA:
            raise UserError(f"{where} has schema version {schema}, this plca_dist reads up to {SCHEMA}; update it.")
        manifest = _MANIFEST.validate_json(data, strict=True)
    except ValueError as error:
        raise UserError(f"{where} is damaged ({_fault(error)}); write the shards again with --overwrite.") from error
    counted = manifest.statistics.pixels if manifest.statistics else ()
    try:
        labels = manifest.labels
    except UserError as error:
        raise UserError(f"{where} is damaged ({error}); write the shards again with --overwrite.") from error
    if labels.classes != manifest.classes or (counted and len(counted) != len(manifest.classes)):
        raise UserError(
            f"{where} contradicts itself: its label set or its pixels are not of its {len(manifest.classes)} classes; "
            "write the shards again with --overwrite."
        )
    for shard in manifest.shards:
        if shard.rows != sum(shard.row_groups):
            raise UserError(
                f"{where} contradicts itself: {shard.name} has {shard.rows} rows and row groups of "
                f"{sum(shard.row_groups)}; write the shards again with --overwrite."
            )
        if shard.checksums and len(shard.checksums) != len(shard.row_groups) + 1:
            raise UserError(
                f"{where} contradicts itself: {shard.name} has {len(shard.row_groups)} row groups and "
                f"{len(shard.checksums)} checksums; write the shards again with --overwrite."
            )
    if manifest.rows != sum(s.rows for s in manifest.shards):
        raise UserError(
            f"{where} contradicts itself: {manifest.rows} rows in all, {sum(s.rows for s in manifest.shards)} in its "
            "shards; write the shards again with --overwrite."
        )
    return manifest


@dataclass(frozen=True)
class Record:
    """What is kept of a finished shard until the manifest is written. `inputs`: fingerprint of all that decides it."""

    inputs: str
    shard: Shard
    skipped: tuple[Skipped, ...]
    statistics: Statistics | None = None

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self), allow_nan=False).encode()


def parse_record(data: bytes) -> Record | None:
    """The inverse of `Record.to_json`; None for bytes that are no such record."""
    try:
        return _RECORD.validate_json(data, strict=True)
    except ValueError:
        return None


@dataclass(frozen=True)
class _Version:
    schema: int


def _fault(error: ValueError) -> str:
    """The first fault that was found, and where."""
    if not isinstance(error, ValidationError):
        return first_line(error)
    first = error.errors(include_url=False, include_input=False)[0]
    return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))


# What a newer version added is passed over.
_VERSION = TypeAdapter(_Version)
_MANIFEST, _RECORD = TypeAdapter(Manifest), TypeAdapter(Record)
