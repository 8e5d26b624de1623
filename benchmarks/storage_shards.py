"""Shards for `storage.py`: writing them, and reading them by row groups as training does."""

import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import psutil

#: GTA5's images: their size, the bytes of their PNGs, and shards of 64 MB of them.
HEIGHT, WIDTH, LEAST, MOST = 1052, 1914, 2_000_000, 3_000_000
SHARDS, SHARD_ROWS = 5, 25
THREADS = 4  # as many as RowGroups has
COLUMNS = ["image", "label"]

Measured = dict[str, float]


def write(uri: str, shards: str) -> Measured:
    """The shards that all other processes read."""
    import numpy as np

    from plca_dist.data.datasets.dataset import Sample
    from plca_dist.data.labels import LABEL_SETS
    from plca_dist.data.shards import write_shards
    from plca_dist.storage import resolve

    class Noise:
        dataset, label_set, labelled = "noise", LABEL_SETS["cityscapes"], True
        ids = tuple(f"{i:05}" for i in range(SHARDS * SHARD_ROWS))
        patches = np.random.default_rng(0).integers(0, 19, (-(-HEIGHT // 16), -(-WIDTH // 16)), np.uint8)
        label = patches.repeat(16, 0).repeat(16, 1)[:HEIGHT, :WIDTH]

        def __len__(self) -> int:
            return len(self.ids)

        def load(self, i: int) -> Sample:
            draw = np.random.default_rng(i)
            return Sample(self.ids[i], draw.bytes(int(draw.integers(LEAST, MOST))), self.label, HEIGHT, WIDTH)

        def stamp(self, i: int) -> str:
            return str(i)

    manifest = write_shards(Noise(), resolve(shards), with_labels=True, shard_rows=SHARD_ROWS)
    return {
        "rows": manifest.rows,
        "shards": len(manifest.shards),
        "row_groups": len(manifest.row_groups),
        "mb": sum(shard.bytes for shard in manifest.shards) / 1e6,
    }


def process(uri: str, shards: str) -> Measured:
    """A process that reads shards: its memory and threads on the way, then the speed of two passes."""
    found: Measured = {}
    me = psutil.Process()

    def note(when: str) -> None:
        found[f"rss_{when}_mb"] = me.memory_info().rss / 1e6
        found[f"threads_{when}"] = me.num_threads()

    note("bare")
    began = time.perf_counter()
    from plca_dist.storage import probe

    found["import_s"] = time.perf_counter() - began
    note("imported")
    probe(shards)
    found["import_and_probe_s"] = time.perf_counter() - began
    note("probed")
    import plca_dist.data.shards  # noqa: F401  torch too

    note("before_reading")
    first = one_pass(shards, seed=0)
    note("after_reading")
    found["rss_growth_of_reading_mb"] = found["rss_after_reading_mb"] - found["rss_before_reading_mb"]
    second = one_pass(shards, seed=1)
    return found | {name: statistics.mean((first[name], second[name])) for name in first}


def read(uri: str, shards: str) -> Measured:
    """The speed of two passes alone."""
    import plca_dist.data.shards  # noqa: F401  torch takes seconds of the processor, which are not the first pass's

    first, second = one_pass(shards, seed=0), one_pass(shards, seed=1)
    return {name: statistics.mean((first[name], second[name])) for name in first}


def one_pass(shards: str, seed: int) -> Measured:
    """Every row group once, in a shuffled order, by a new reader on a new store; each table is dropped at once."""
    from plca_dist.data.shards import ShardReader, read_manifest
    from plca_dist.storage import OUTAGE_PATIENCE_S, resolve

    store = resolve(shards, patience_s=OUTAGE_PATIENCE_S)
    manifest = read_manifest(store)
    groups = random.Random(seed).sample(manifest.row_groups, len(manifest.row_groups))
    with ThreadPoolExecutor(THREADS) as pool:
        began, cpu = time.perf_counter(), time.process_time()
        reader = ShardReader(store, manifest)
        size = sum(pool.map(lambda g: reader.read_row_group(g.shard, g.group, COLUMNS).nbytes, groups))
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    reader.close()
    stored = sum(shard.bytes for shard in manifest.shards)
    assert 0.99 * stored < size <= stored, (size, stored)
    return {"mb_per_s": size / 1e6 / seconds, "cpu_s_per_gb": cpu / (size / 1e9)}
