"""A place to keep things, the same for a local directory and an S3 bucket.

Everything the project reads or leaves behind goes through a `Store` (store.py), which `resolve` or `probe` (places.py)
finds by its URI. s3.py alone knows of S3.
"""

from plca_dist.storage.places import absolute, endpoint_or_default, file_at, probe, resolve
from plca_dist.storage.store import OUTAGE_PATIENCE_S, Entry, Store, StoreAway

__all__ = [
    "OUTAGE_PATIENCE_S", "Entry", "Store", "StoreAway", "absolute", "endpoint_or_default", "file_at",
    "probe", "resolve",
]  # fmt: skip
