"""A server for tests that speaks Azure Blob Storage: Azurite, Microsoft's own emulator, a program that npm installs.

It checks signatures and conditions of requests. It does not show Entra ID's tokens, nor a directory-like account
(hierarchical namespace).
"""

import base64
import datetime
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

VERSION = "3.37.0"


@dataclass(frozen=True)
class Azure:
    """A running Azurite with one container, `bucket`."""

    endpoint: str  #: with the account's name, which Azurite has in the path: http://127.0.0.1:port/account
    account: str
    key: str
    bucket: str = "bucket"


def program() -> str | None:
    """The path of Azurite's blob service, in this virtual environment or else on PATH."""
    return shutil.which("azurite-blob", path=f"{_home() / 'node_modules' / '.bin'}:{os.environ['PATH']}")


def missing() -> str | None:
    """Why there is no Azurite, or None where there is one."""
    if not shutil.which("node"):
        return "node is missing, which runs Azurite: apt-get install npm"
    if not program():
        return f"Azurite is missing: npm install --prefix .venv/azurite azurite@{VERSION}"
    return None


def _home() -> Path:
    return Path(sys.prefix) / "azurite"


@contextmanager
def serving(folder: Path) -> Iterator[Azure]:
    """Run Azurite's blob service on loopback and a free port until the block ends, with its log in `folder`."""
    reason = missing()
    assert reason is None, reason
    account, key = f"tests{secrets.token_hex(4)}", base64.b64encode(secrets.token_bytes(64)).decode()
    port = _free_port()
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        [
            program() or "", "--blobHost=127.0.0.1", f"--blobPort={port}", "--inMemoryPersistence",
            "--skipApiVersionCheck", "--silent", "--disableTelemetry",
        ],
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={**os.environ, "AZURITE_ACCOUNTS": f"{account}:{key}"},
    )  # fmt: skip
    try:
        server = Azure(f"http://127.0.0.1:{port}/{account}", account, key)
        _create_container(server, process, folder / "log")
        yield server
    finally:
        process.kill()  # its data is in memory only
        process.wait()
        log.close()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _create_container(server: Azure, process: subprocess.Popen, log: Path) -> None:
    from azure.core.exceptions import ServiceRequestError
    from azure.storage.blob import BlobServiceClient

    deadline = time.monotonic() + 60
    with BlobServiceClient.from_connection_string(connection_string(server), retry_total=0) as client:
        while True:
            try:
                client.create_container(server.bucket)
                return
            except ServiceRequestError:  # nothing listens yet
                assert process.poll() is None, f"Azurite ended: {log.read_text()[-2000:]}"
                assert time.monotonic() < deadline, f"Azurite is not ready after 60 s: {log.read_text()[-2000:]}"
                time.sleep(0.1)


def connection_string(server: Azure, *, sas: str | None = None, key: str | None = None) -> str:
    """Azure's form of an address with credentials: the account's key, another `key`, or a shared access signature."""
    place = f"BlobEndpoint={server.endpoint}"
    if sas is not None:
        return f"{place};SharedAccessSignature={sas}"
    return f"DefaultEndpointsProtocol=http;AccountName={server.account};AccountKey={key or server.key};{place}"


def shared_access(server: Azure, *, write: bool = False, seconds: float = 3600) -> str:
    """A signature for the container's objects: to read and list, or to write too; expired where `seconds` < 0."""
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    now = datetime.datetime.now(datetime.UTC)
    return generate_container_sas(
        server.account,
        server.bucket,
        account_key=server.key,
        permission=ContainerSasPermissions(read=True, list=True, write=write, create=write, delete=write),
        start=now - datetime.timedelta(days=1),
        expiry=now + datetime.timedelta(seconds=seconds),
    )


def azure_environment(server: Azure, *, sas: str | None = None) -> dict[str, str]:
    """The variables that adlfs reads, with the server's address and key, or a signature in place of the key."""
    account = {"AZURE_STORAGE_ACCOUNT_NAME": server.account}
    if sas is None:
        account["AZURE_STORAGE_ACCOUNT_KEY"] = server.key
    return {"AZURE_STORAGE_CONNECTION_STRING": connection_string(server, sas=sas), **account}
