"""A place to keep things, the same for a local directory and an S3 bucket.

Everything that the project reads or leaves behind goes through a `Store` (store.py). `resolve` and `probe`
(location.py) open one at a `Location`: a URI, and the server that it is on. local_files.py and s3.py hold what is
special to each kind of store.
"""

from plca_dist.storage.location import Location, absolute, file_at, probe, resolve
from plca_dist.storage.store import OUTAGE_PATIENCE_S, Entry, Store, StoreAway

__all__ = [
    "OUTAGE_PATIENCE_S", "Entry", "Location", "Store", "StoreAway", "absolute", "file_at", "probe", "resolve",
]  # fmt: skip
