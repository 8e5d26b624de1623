"""What `storage.py` measures, one case in one process: `python storage_measure.py CASE URI SHARDS`, a line of JSON out.

Of this project it and storage_shards.py import only `plca_dist`, from where PYTHONPATH says, and of its storage only
what every version of it has. A result that is not right ends the case, and then nothing is reported.
"""

import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from storage_shards import process, read, write

LARGE = 64 << 20
TIMES, CREATED, FILES, LISTED = 40, 16, 4, 100
LIBRARIES = ("pyarrow", "botocore", "aiobotocore", "fsspec", "s3fs", "adlfs", "gcsfs")

Measured = dict[str, float]


class Clock:
    """Milliseconds of repeated calls, by name."""

    def __init__(self) -> None:
        self.ms: dict[str, list[float]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.ms.setdefault(name, []).append(1e3 * (time.perf_counter() - began))

    def summary(self) -> Measured:
        """Median and 90th percentile of each name; the first call of several is left out, because it makes connections
        and loads libraries."""
        found = {}
        for name, every in self.ms.items():
            ms = every[1:] or every
            found[f"{name}_ms"] = statistics.median(ms)
            if len(ms) >= 10:
                found[f"{name}_p90_ms"] = statistics.quantiles(ms, n=10)[8]
        return found


def reach(uri: str, shards: str) -> dict[str, Any]:
    """The libraries with which the place is reached. Exits with 3 where this version cannot."""
    from plca_dist.errors import UserError
    from plca_dist.storage import probe

    try:
        probe(uri)
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(3) from error
    return {name: version(name) for name in LIBRARIES if name in sys.modules}


def large(uri: str, shards: str) -> Measured:
    """Files as large as a checkpoint's, there and back."""
    from plca_dist.storage import probe

    store, clock, data = probe(uri), Clock(), os.urandom(LARGE)
    with tempfile.TemporaryDirectory(prefix="plca-storage-") as name:
        there, back = Path(name) / "there", Path(name) / "back"
        there.write_bytes(data)
        cpu = time.process_time()
        for i in range(4):
            with clock("upload"):
                store.upload(there, f"large-{i}")
        upload_cpu = (time.process_time() - cpu) / 4
        cpu = time.process_time()
        for i in range(4):
            with clock("download"):
                store.download(f"large-{i}", back)
        download_cpu = (time.process_time() - cpu) / 4
        assert back.read_bytes() == data
    speeds = {f"{name}_mb_per_s": LARGE / 1e3 / statistics.median(ms[1:]) for name, ms in clock.ms.items()}
    return speeds | {
        "upload_cpu_s_per_gb": 1e9 * upload_cpu / LARGE,
        "download_cpu_s_per_gb": 1e9 * download_cpu / LARGE,
    }


def small(uri: str, shards: str) -> Measured:
    """Objects of 1 KiB: every call that runs and searches make."""
    from plca_dist.storage import probe

    store, clock, data = probe(uri), Clock(), os.urandom(1 << 10)
    names = [f"many/{i:03}" for i in range(LISTED)]

    def repeat(what: str, call: Callable[[str], Any], answer: Any, over: list[str]) -> None:
        for name in over:
            with clock(what):
                got = call(name)
            assert got == answer, (what, name, got)

    repeat("write", lambda name: store.write(name, data), None, names)
    repeat("read", store.read, data, names[:TIMES])
    repeat("exists", store.exists, True, names[:TIMES])
    repeat("exists_missing", lambda name: store.exists(f"{name}-none"), False, names[:TIMES])
    repeat("list_100", lambda _: [entry.name for entry in store.list("many")], names, names[:TIMES])
    repeat("delete", store.delete, None, names[:TIMES])
    repeat("delete_tree_60", store.delete_tree, None, ["many"])
    assert not store.list("many")
    repeat("create", lambda name: store.create(name, uuid.uuid4().bytes), True, names[:CREATED])
    repeat("create_refused", lambda name: store.create(name, uuid.uuid4().bytes), False, names[:CREATED])
    return clock.summary()


def lease(uri: str, shards: str) -> Measured:
    """The lease on new runs, and a renewal as its thread makes it."""
    from plca_dist.run.lease import Lease, fenced
    from plca_dist.run_files import LEASES
    from plca_dist.storage import probe

    store, clock = probe(uri), Clock()
    for i in range(8):
        run = store.child(f"run-{i}")
        with clock("acquire"):
            held = Lease.acquire(run)
        with held:
            name = f"{LEASES}/{held.generation:08d}.json"
            for _ in range(5):
                content = run.read(name)
                with clock("renew"):
                    assert not fenced(run, held.generation)
                    run.write(name, content)
    return {"acquire_first_ms": clock.ms["acquire"][0], **clock.summary()}


def commit(uri: str, shards: str) -> Measured:
    """A checkpoint of small files, from its first upload to `prune`, as the checkpoint's Saver calls them."""
    from plca_dist.storage import probe
    from plca_dist.training.checkpoint import commit as checkpoints
    from plca_dist.training.checkpoint.survey import committed, prune

    run, clock = probe(uri), Clock()
    with tempfile.TemporaryDirectory(prefix="plca-storage-") as folder:
        file = Path(folder) / "file"
        file.write_bytes(os.urandom(64 << 10))
        files = {checkpoints.rank_file(rank): (file.stat().st_size, checkpoints.sha256(file)) for rank in range(FILES)}
        for step in range(1, 13):
            name = checkpoints.checkpoint_name(step, FILES, 1)
            checkpoint = checkpoints.Checkpoint(name, step, FILES, 1, "", step / 100, files)
            with clock("save"):
                for each in files:
                    run.child(checkpoint.place).upload(file, each)
                with clock("commit"):
                    checkpoints.commit(run, checkpoint)
                with clock("prune"):
                    prune(run, 2, checkpoint)
            with clock("look_for_committed"):
                newest = committed(run)
            assert [c.step for c in newest] == [s for s in (step, step - 1) if s], newest
    return clock.summary()


CASES = {f.__name__: f for f in (reach, write, process, read, large, small, lease, commit)}

if __name__ == "__main__":
    result = CASES[sys.argv[1]](*sys.argv[2:])
    import plca_dist

    print(json.dumps({"code": str(Path(plca_dist.__file__).parents[1]), "result": result}))
