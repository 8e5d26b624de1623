"""`manifest.json`, which makes a directory of shards a data set.

It names every shard and is written last: a directory without one is no data set, or not yet.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from plca_dist.errors import UserError
from plca_dist.storage import Store

MANIFEST = "manifest.json"
#: Version of the shards' layout. It is raised when an older reader would misread new shards.
SCHEMA = 1


@dataclass(frozen=True)
class Shard:
    """One Parquet file: its name, rows, size, SHA-256, and the rows in each of its row groups."""

    name: str
    rows: int
    bytes: int
    sha256: str
    row_groups: tuple[int, ...]


@dataclass(frozen=True)
class Skipped:
    """A sample that was left out, and the reason."""

    id: str
    reason: str


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
    """

    dataset: str
    label_set: str | None
    classes: tuple[str, ...]
    with_labels: bool
    rows: int
    shards: tuple[Shard, ...]
    skipped: tuple[Skipped, ...]
    inputs: str
    schema: int = SCHEMA

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
        content = [self.classes, self.with_labels, [(s.sha256, s.row_groups) for s in self.shards]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def summary(self) -> str:
        """One line for a person."""
        left_out = f"; left out as broken: {', '.join(s.id for s in self.skipped)}" if self.skipped else ""
        labels = f"labels of {self.label_set!r}" if self.with_labels else "no labels"
        size = sum(s.bytes for s in self.shards) / 2**20
        return f"{self.rows} samples in {len(self.shards)} shards, {size:.1f} MiB, {labels}{left_out}"

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self), indent=1).encode()


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
    try:
        raw = json.loads(store.read(MANIFEST))
        schema = int(raw["schema"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where} is damaged ({error}); write the shards again with --overwrite.") from error
    if schema > SCHEMA:
        raise UserError(f"{where} has schema version {schema}, this plca_dist reads up to {SCHEMA}; update plca_dist.")
    try:
        manifest = _parse(raw)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where} is damaged ({error!r}); write the shards again with --overwrite.") from error
    for shard in manifest.shards:
        if shard.rows != sum(shard.row_groups):
            raise UserError(
                f"{where} contradicts itself: {shard.name} has {shard.rows} rows and row groups of "
                f"{sum(shard.row_groups)}; write the shards again with --overwrite."
            )
    if manifest.rows != sum(s.rows for s in manifest.shards):
        raise UserError(
            f"{where} contradicts itself: {manifest.rows} rows in all, {sum(s.rows for s in manifest.shards)} in its "
            "shards; write the shards again with --overwrite."
        )
    return manifest


def parse_shard(raw: dict[str, Any]) -> Shard:
    """The inverse of `dataclasses.asdict` for a shard."""
    return Shard(raw["name"], int(raw["rows"]), int(raw["bytes"]), raw["sha256"], tuple(map(int, raw["row_groups"])))


def parse_skipped(raw: list[dict[str, str]]) -> tuple[Skipped, ...]:
    return tuple(Skipped(entry["id"], entry["reason"]) for entry in raw)


def _parse(raw: dict[str, Any]) -> Manifest:
    return Manifest(
        dataset=raw["dataset"],
        label_set=raw["label_set"],
        classes=tuple(raw["classes"]),
        with_labels=bool(raw["with_labels"]),
        rows=int(raw["rows"]),
        shards=tuple(parse_shard(shard) for shard in raw["shards"]),
        skipped=parse_skipped(raw["skipped"]),
        inputs=raw["inputs"],
        schema=int(raw["schema"]),
    )
