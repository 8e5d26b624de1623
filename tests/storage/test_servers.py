"""The servers that stand for cloud stores in tests: what the tests of storage rely on."""

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, urlsplit

import pytest

from benchmarks.servers.azurite import Azure, connection_string, shared_access
from benchmarks.servers.gcs import GCS
from benchmarks.servers.proxy import FaultyProxy
from benchmarks.servers.seaweed import S3

Answer = tuple[int, dict[str, str], bytes]


def ask(endpoint: str, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> Answer:
    """Status, headers and body of an answer. A body that is an iterator is sent in chunks."""
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=60)
    try:
        connection.request(method, urlsplit(endpoint).path + path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def upload(endpoint: str, key: str, data: object, condition: str = "&ifGenerationMatch=0") -> int:
    path = f"/upload/storage/v1/b/bucket/o?uploadType=media&name={quote(key, safe='')}{condition}"
    return ask(endpoint, "POST", path, data)[0]


def download(endpoint: str, key: str, part: str | None = None) -> tuple[int, bytes]:
    path = f"/download/storage/v1/b/bucket/o/{quote(key, safe='')}?alt=media"
    status, _, data = ask(endpoint, "GET", path, headers={"Range": f"bytes={part}"} if part else None)
    return status, data


def test_one_of_the_racing_creators_wins_on_google_and_all_of_them_without_conditions(gcs_server: GCS) -> None:
    names = [b"%d" % one for one in range(16)]
    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda name: upload(gcs_server.endpoint, "raced", name), names))
    assert sorted(got) == [200] + [412] * 15
    assert download(gcs_server.endpoint, "raced") == (200, names[got.index(200)])
    assert upload(gcs_server.plain_endpoint, "raced", b"again") == 200
    assert download(gcs_server.endpoint, "raced") == (200, b"again")


def test_a_resumable_upload_that_comes_second_is_refused_at_its_end(gcs_server: GCS) -> None:
    path = "/upload/storage/v1/b/bucket/o?uploadType=resumable&name=resumed&ifGenerationMatch=0"
    json_type = {"Content-Type": "application/json"}
    first, second = (ask(gcs_server.endpoint, "POST", path, "{}", json_type)[1]["Location"] for _ in range(2))
    for location, status in ((first, 200), (second, 412)):
        rest = location.removeprefix(gcs_server.endpoint)
        part = {"Content-Range": "bytes 0-2/3", "Content-Type": "application/octet-stream"}
        assert ask(gcs_server.endpoint, "PUT", rest, b"abc", part)[0] == status


@pytest.mark.parametrize("key", ["a b", "a#b?c", "a%2Fb", "a+b", "a//b", "a/b", "a;b", "a/../b", "größe", "a\r\nb"])
def test_every_key_is_its_own_object_on_google(gcs_server: GCS, key: str) -> None:
    assert upload(gcs_server.endpoint, f"keys/{key}", key.encode()) == 200
    assert download(gcs_server.endpoint, f"keys/{key}") == (200, key.encode())
    assert download(gcs_server.endpoint, f"keys/{key}", "-1") == (206, key.encode()[-1:])
    assert download(gcs_server.endpoint, f"keys/{key}", "99-")[0] == 416


def test_listings_of_google_have_pages(gcs_server: GCS) -> None:
    for name in ("p/1", "p/2/x", "p/2/y", "p/3"):
        upload(gcs_server.endpoint, name, b"")
    found, token = [], ""
    while token is not None:
        query = f"prefix=p/&delimiter=/&maxResults=1&pageToken={token}"
        page = json.loads(ask(gcs_server.endpoint, "GET", f"/storage/v1/b/bucket/o?{query}")[2])
        found += page.get("prefixes", []) + [item["name"] for item in page.get("items", [])]
        token = page.get("nextPageToken")
    assert found == ["p/1", "p/2/", "p/3"]


def test_a_reader_of_azures_objects_cannot_write_and_an_old_signature_reads_nothing(azure_server: Azure) -> None:
    from azure.core.exceptions import HttpResponseError
    from azure.storage.blob import BlobClient

    def blob(address: str) -> BlobClient:
        return BlobClient.from_connection_string(address, azure_server.bucket, "signed")

    with blob(connection_string(azure_server)) as owner:
        owner.upload_blob(b"1", overwrite=True)
    with blob(connection_string(azure_server, sas=shared_access(azure_server))) as reader:
        assert reader.download_blob().readall() == b"1"
        with pytest.raises(HttpResponseError, match="not authorized to perform"):
            reader.upload_blob(b"2", overwrite=True)
    old = connection_string(azure_server, sas=shared_access(azure_server, seconds=-60))
    with blob(old) as late, pytest.raises(HttpResponseError, match="failed to authenticate"):
        late.download_blob()


@pytest.mark.parametrize(("kind", "code"), [("s3", b"SlowDown"), ("azure", b"ServerBusy"), ("gcs", b"backendError")])
def test_the_proxy_refuses_in_the_form_of_the_store(s3_server: S3, kind: str, code: bytes) -> None:
    with FaultyProxy(s3_server.endpoint, kind=kind) as proxy:
        proxy.refuse = 1.0
        status, headers, body = ask(proxy.endpoint, "PATCH", "/bucket/x", b"data")
        assert (status, code in body) == (503, True)
        assert headers.get("x-ms-error-code") == ("ServerBusy" if kind == "azure" else None)
        assert ask(proxy.endpoint, "HEAD", "/bucket/x")[::2] == (503, b"")
        proxy.why = "denied"
        assert ask(proxy.endpoint, "GET", "/bucket/x")[0] == 403


def test_the_proxy_passes_bodies_in_chunks_on(gcs_server: GCS) -> None:
    with FaultyProxy(gcs_server.endpoint, kind="gcs") as proxy:
        assert upload(proxy.endpoint, "chunks", iter([b"one ", b"two"])) == 200
        assert download(proxy.endpoint, "chunks") == (200, b"one two")
        assert proxy.read == {"/download/storage/v1/b/bucket/o/chunks": 7}
