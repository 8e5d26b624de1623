"""Buckets of every cloud, each on a real server."""

import dataclasses
from typing import Any

import pytest

from benchmarks.servers.azurite import azure_environment
from benchmarks.servers.gcs import gcs_environment
from benchmarks.servers.seaweed import s3_environment

#: Names of fixtures, each a server whose address and credentials are in the usual variables.
CLOUDS = ["s3", "gcs", "azure"]
SCHEMES = {"s3": "s3", "gcs": "gs", "azure": "az"}


def in_cloud(request: pytest.FixtureRequest) -> str:
    """URI of a bucket, for a fixture with the parameters `CLOUDS`."""
    request.getfixturevalue(request.param)
    return f"{SCHEMES[request.param]}://bucket"


def set_server(name: str, server: Any, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this cloud's variables name another endpoint, such as a proxy's, with the same credentials."""
    for variable, value in environment(name, server, endpoint).items():
        monkeypatch.setenv(variable, value)


def environment(name: str, server: Any, endpoint: str) -> dict[str, str]:
    """The variables of a cloud, with the server's credentials and another endpoint."""
    made = {"s3": s3_environment, "gcs": gcs_environment, "azure": azure_environment}[name]
    return made(dataclasses.replace(server, endpoint=endpoint))
