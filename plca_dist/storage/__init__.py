"""A place to keep things, the same for a local directory and for a bucket of S3, Google Cloud Storage or Azure.

Everything that the project reads or leaves behind goes through a `Store` (store.py). `resolve` and `probe`
(location.py) open one at a `Location`: a URI, and the server that it is on. A store stands on local_files.py, or
through fsspec on cloud_files.py. `clouds/` has what is special to each cloud, causes.py says what errors mean, and
endpoint.py which URLs name a server.
"""

from plca_dist.storage.location import Location, absolute, file_at, probe, resolve
from plca_dist.storage.proof import prove_created_once
from plca_dist.storage.store import OUTAGE_PATIENCE_S, Entry, Store, StoreAway

__all__ = [
    "OUTAGE_PATIENCE_S", "Entry", "Location", "Store", "StoreAway", "absolute", "file_at", "probe",
    "prove_created_once", "resolve",
]  # fmt: skip
