"""A server for tests that speaks Google Cloud Storage: gcp-storage-emulator, and what it lacks.

The emulator has no conditional writes: it overwrites in spite of `ifGenerationMatch`. Its two endpoints are

- `plain_endpoint`: a store without conditional writes, so one on which "create once" must be refused;
- `endpoint`: the same objects, where `ifGenerationMatch` holds on uploads and deletes.

What neither shows: authorization (every token, and none, may do everything), atomicity as Google's servers have it
(one lock stands for it), generations and versions of objects, and batches, which gcsfs sends to Google alone.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class GCS:
    """A running emulator with one bucket, `bucket`."""

    endpoint: str
    plain_endpoint: str
    bucket: str = "bucket"


@contextmanager
def serving(folder: Path) -> Iterator[GCS]:
    """Run the emulator on loopback and free ports until the block ends, with its log in `folder`."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.servers.gcs_process", GCS.bucket],
            stdin=subprocess.PIPE,  # it ends with its parent
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=Path(__file__).parents[2],
        )
    try:
        assert process.stdout
        ports = process.stdout.readline()
        assert ports, f"the emulator ended: {(folder / 'log').read_text()[-2000:]}"
        yield GCS(*(f"http://127.0.0.1:{port}" for port in json.loads(ports)))
    finally:
        process.kill()
        process.communicate()


def gcs_environment(server: GCS) -> dict[str, str]:
    """The variables with which Google's tools use an emulator; they look for no credentials then.

    gcsfs looks for them all the same, unless it is given token="anon". The last two variables keep it from asking
    Google's metadata server for some, and from asking Google what kind of bucket this is; gcsfs reads the second
    while it is imported.
    """
    return {
        "STORAGE_EMULATOR_HOST": server.endpoint,
        "NO_GCE_CHECK": "true",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
