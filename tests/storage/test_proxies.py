"""HTTP_PROXY and NO_PROXY count for the requests of every cloud alike."""

import socket
import threading
from collections.abc import Iterator

import pytest

from plca_dist.errors import UserError
from plca_dist.storage import Location, probe
from tests.environment import set_all

#: Nobody answers to this name: a request for it either reaches the proxy or fails.
SERVER = "http://store.invalid:9"
CLOUDS = {
    "s3": {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": SERVER},
    "gs": {"STORAGE_EMULATOR_HOST": SERVER},
    "az": {"AZURE_STORAGE_CONNECTION_STRING": f"AccountName=a;AccountKey=YWFh;BlobEndpoint={SERVER}/a"},
}


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[bytes]]]:
    """Its URL, and the first lines of the requests that reached it. It denies them all."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(65536).partition(b"\r\n")[0])
                    connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_requests_go_through_the_proxy(
    cloud: str, proxy: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = proxy
    for name in ("http_proxy", "https_proxy", "no_proxy", "NO_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    set_all(monkeypatch, {**CLOUDS[cloud], "HTTP_PROXY": url})
    with pytest.raises(UserError):
        probe(Location(f"{cloud}://bucket-of-{cloud}/runs"))
    assert asked
    assert all(SERVER.encode() in line for line in asked)
