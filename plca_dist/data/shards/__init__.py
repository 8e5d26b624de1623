"""The shard directory: Parquet shards and a manifest.

`write_shards` (writer.py) makes one out of samples, a shard at a time (file.py). `read_manifest` (manifest.py) opens
one. `ShardReader` (reader.py) reads single row groups, and `RowGroups` (fetch.py) fetches them ahead of their use.
`verify` (verify.py) compares every byte with the manifest.
"""

from plca_dist.data.shards.manifest import Manifest, read_manifest
from plca_dist.data.shards.reader import Damaged, ShardReader, pass_over
from plca_dist.data.shards.writer import write_shards

__all__ = ["Damaged", "Manifest", "ShardReader", "pass_over", "read_manifest", "write_shards"]
