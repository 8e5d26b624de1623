"""The stores that tests and benchmarks run on, each a real server, by its name."""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.servers import azurite, gcs, seaweed


class Kind(NamedTuple):
    """A kind of store.

    Attributes:
        bucket: URI of the bucket that its server has.
        serving: runs the server, with its files in a folder, until the block ends.
        environment: the variables of its clients, with the server's address and credentials.
    """

    bucket: str
    serving: Callable[[Path], AbstractContextManager[Any]]
    environment: Callable[[Any], dict[str, str]]

    def through(self, server: Any, endpoint: str) -> dict[str, str]:
        """The variables with another endpoint, such as a proxy's, and the server's credentials."""
        return self.environment(dataclasses.replace(server, endpoint=endpoint))


KINDS = {
    "s3": Kind("s3://bucket", seaweed.serving, seaweed.s3_environment),
    "gcs": Kind("gs://bucket", gcs.serving, gcs.gcs_environment),
    "azure": Kind("az://bucket", azurite.serving, azurite.azure_environment),
}
