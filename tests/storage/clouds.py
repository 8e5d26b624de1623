"""Buckets of every cloud, each on a real server."""

import pytest

from benchmarks.servers.stores import KINDS

#: Names of fixtures, each a server whose address and credentials are in the usual variables.
CLOUDS = list(KINDS)


def in_cloud(request: pytest.FixtureRequest) -> str:
    """URI of a bucket, for a fixture with the parameters `CLOUDS`."""
    request.getfixturevalue(request.param)
    return KINDS[request.param].bucket
