"""Every byte of a shard directory against the SHA-256 in its manifest."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from plca_dist.data.shards.manifest import MANIFEST, Manifest, Shard, read_manifest
from plca_dist.errors import UserError, some
from plca_dist.storage import Store

_PIECE = 16 << 20


def verify(store: Store, *, workers: int, progress: Callable[[int, int], None]) -> Manifest:
    """Read all shards once; the manifest, where they are those that it names.

    Args:
        workers: threads; each reads one shard at a time.
        progress: called with (shards done, shards in all).

    Raises:
        UserError: when there is no sound manifest, or naming every shard that is not the manifest's.
    """
    manifest = read_manifest(store)
    wrong: list[str] = []
    with ThreadPoolExecutor(workers) as pool:
        for done, (shard, right) in enumerate(pool.map(lambda s: (s, _right(store, s)), manifest.shards), 1):
            wrong += [] if right else [shard.name]
            progress(done, len(manifest.shards))
    if wrong:
        raise UserError(
            f"{store.uri}: {some(wrong)} of {len(manifest.shards)} shards: absent, or other bytes than "
            f"those that {MANIFEST} names; copy them again, or write the shards again with --overwrite."
        )
    return manifest


def _right(store: Store, shard: Shard) -> bool:
    if not store.exists(shard.name) or store.size(shard.name) != shard.bytes:
        return False
    found = hashlib.sha256()
    for start in range(0, shard.bytes, _PIECE):
        found.update(store.read_range(shard.name, start, min(start + _PIECE, shard.bytes)))
    return found.hexdigest() == shard.sha256
