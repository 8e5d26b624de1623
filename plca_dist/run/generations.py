"""The objects of a lease: a file for each generation in `lease/`, and what an observer makes of them."""

import logging
import os
import re
import socket
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from plca_dist.errors import UserError
from plca_dist.parsing import Unreadable, json_as
from plca_dist.run_files import LEASES
from plca_dist.storage import Store

log = logging.getLogger(__name__)

_NAME = re.compile(rf"{LEASES}/(\d+)\.json$")


class Watch:
    """The newest generation as one observer has seen it, and for how long."""

    def __init__(self, ttl: float) -> None:
        self._ttl = ttl
        self._began = self._since = time.monotonic()
        self._seen: tuple[int, bytes] | None = None
        self._changes = -1
        self._observations = 0

    def expired(self, generation: int, content: bytes) -> bool:
        """Note the newest generation; returns whether it has been the same for a lease's life."""
        now = time.monotonic()
        self._observations += 1
        if (generation, content) != self._seen:
            self._seen, self._since = (generation, content), now
            self._changes += 1
        return now - self._since > self._ttl

    def alive(self) -> bool:
        """Whether the holder lives: it renewed the lease at least twice, and was watched for a lease's life."""
        return self._changes > 1 and time.monotonic() - self._began > self._ttl

    def is_first(self) -> bool:
        return self._observations == 1


def new_claim() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "token": uuid.uuid4().hex,
    }


def holder_of(content: bytes) -> str:
    record = record_of(content)
    return "{host}, process {pid}, since {since}".format_map(
        {key: record.get(key, "unknown") for key in ("host", "pid", "since")}
    )


def record_of(content: bytes) -> dict[str, Any]:
    try:
        return json_as(content, dict, "the lease", "it is as good as empty")
    except Unreadable:
        return {}


def newest_generation(store: Store) -> int:
    """The newest generation's number; 0 where there is none."""
    found = (_NAME.match(entry.name) for entry in store.list(LEASES))
    return max((int(match[1]) for match in found if match), default=0)


def read_generation(store: Store, generation: int) -> bytes:
    """The generation's content, empty where it was swept since it was listed."""
    try:
        return store.read(name_of(generation))
    except UserError:
        if store.exists(name_of(generation)):
            raise
        return b""


def sweep_before(store: Store, generation: int) -> None:
    for entry in store.list(LEASES):
        match = _NAME.match(entry.name)
        if match and int(match[1]) < generation:
            store.delete(entry.name)


def clear_unfinished(store: Store) -> None:
    """Remove what killed writers have left in the directory. The work goes on where the store does not let us."""
    try:
        store.clear_unfinished(besides=LEASES)
    except UserError as error:
        log.warning("unfinished uploads of earlier writers, if there are any, stay: %s", error)


def name_of(generation: int) -> str:
    return f"{LEASES}/{generation:08d}.json"
