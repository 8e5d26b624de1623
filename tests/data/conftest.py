"""Shards that the tests of streams read."""

import pytest

from plca_dist.data.datasets.layouts import open_dataset
from plca_dist.data.shards import write_shards
from plca_dist.storage import Store, resolve


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Drawn scenes of 32 x 64, several row groups each: `source` of 22 with labels, `target` of 22 without."""
    store = resolve(str(tmp_path_factory.mktemp("shards")))
    for domain, labelled in (("source", True), ("target", False)):
        reader = open_dataset("toytown", None, domain, with_labels=labelled, count=22, size=(32, 64))
        write_shards(reader, store.child(domain), with_labels=labelled, shard_rows=12, row_group_rows=4)
    return store
