"""Buckets of every cloud, each on a real server."""

import pytest

#: Names of fixtures, each a server whose address and credentials are in the usual variables.
CLOUDS = ["s3", "gcs", "azure"]
SCHEMES = {"s3": "s3", "gcs": "gs", "azure": "az"}


def in_cloud(request: pytest.FixtureRequest) -> str:
    """URI of a bucket, for a fixture with the parameters `CLOUDS`."""
    request.getfixturevalue(request.param)
    return f"{SCHEMES[request.param]}://bucket"
