"""Every kind of request that a run makes of its store, tried on the store."""

import os
import shutil
import time
import uuid
from pathlib import Path

from plca_dist import scratch
from plca_dist.doctor.finding import first_missing
from plca_dist.errors import UserError
from plca_dist.storage import Location, Store, probe, prove_created_once

#: Larger than one part of a multipart upload, which stores handle by other code than small objects.
_ROUND_TRIP_BYTES = 24 << 20


def try_store(location: Location) -> str:
    """Make every kind of request, leave nothing behind, and say how long it took.

    Raises:
        UserError: for what is refused, or does not read or list as it was written.
    """
    store = probe(location)
    made = None if "://" in store.uri else first_missing(Path(store.root))
    folder = f"plca-doctor-{uuid.uuid4().hex}"
    began = time.monotonic()
    try:
        _large(store, f"{folder}/large")
        _small(store, folder)
        _through_arrow(store, f"{folder}/ray")
        note = _unfinished(store.child(folder))
    finally:
        store.delete_tree(folder)
        if made:
            shutil.rmtree(made, ignore_errors=True)
    if left := store.list(folder):
        raise UserError(f"{store.uri}: {left[0].name} is listed after it was deleted; {_LISTINGS}.")
    took = time.monotonic() - began
    done = f"{_ROUND_TRIP_BYTES >> 20} MiB written, read and deleted, creates only once, in {took:.1f} s"
    return f"{store.uri}: {done}{note}"


_LISTINGS = "use a store whose listings are up to date"
_BYTES = "do not use this store"


def _unfinished(store: Store) -> str:
    """As a launch looks for what killed ones have left. It goes on where it may not; so this is no failure either."""
    try:
        store.clear_unfinished(besides="none")
    except UserError as error:
        return f"; what killed runs leave of uploads will stay ({error})"
    return ""


def _large(store: Store, name: str) -> None:
    """As shards and checkpoints: up in parts; whole, in ranges, and into a file."""
    data = os.urandom(1 << 20) * (_ROUND_TRIP_BYTES >> 20)
    with scratch.folder() as folder:
        up, down = folder / "up", folder / "down"
        up.write_bytes(data)
        store.upload(up, name)
        store.download(name, down)
        whole = down.read_bytes() == data and store.read(name) == data and store.size(name) == len(data)
    if not whole or store.read_range(name, 5 << 20, 6 << 20) != data[5 << 20 : 6 << 20]:
        raise UserError(f"{store.uri}: what was read differs from what was written; {_BYTES}.")


def _small(store: Store, folder: str) -> None:
    """As leases and metrics: created once, replaced, listed at once, deleted."""
    once, token = f"{folder}/once", uuid.uuid4().bytes
    store.create(once, token)
    prove_created_once(store, once, token)
    store.write(once, b"replaced")
    if store.read(once) != b"replaced":
        raise UserError(f"{store.uri}: an object that was replaced reads as before; {_BYTES}.")
    if (once, len(b"replaced")) not in store.list(folder):
        raise UserError(f"{store.uri}: an object that was replaced is listed as before; {_LISTINGS}.")
    store.delete(once)
    if store.exists(once):
        raise UserError(f"{store.uri}: an object that was deleted is still there; {_BYTES}.")


def _through_arrow(store: Store, name: str) -> None:
    """As Ray Train keeps its own state."""
    files, path, data = store.arrow(), f"{store.root}/{name}/state", b"state"
    try:
        files.create_dir(f"{store.root}/{name}", recursive=True)
        with files.open_output_stream(path) as stream:
            stream.write(data)
        with files.open_input_stream(path) as stream:
            same = stream.read() == data
        files.delete_file(path)
    except store.files.errors as error:
        cause, _ = store.files.explain(error)
        raise UserError(f"{store.uri}/{name}: {cause}; Ray Train keeps its state so.") from error
    if not same:
        raise UserError(f"{store.uri}: what Ray Train would read differs from what it wrote; {_BYTES}.")
