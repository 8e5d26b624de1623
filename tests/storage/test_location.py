"""What a person may write as a place, and what each means."""

import pickle
import sys
from pathlib import Path

import pytest

from plca_dist.errors import UserError
from plca_dist.storage import Location, file_at, probe, resolve


@pytest.mark.parametrize(
    ("uri", "root"),
    [
        ("s3://bucket", "bucket"),
        ("s3://bucket/", "bucket"),
        ("s3://bucket/a/b", "bucket/a/b"),
        ("s3://bucket/a/b/", "bucket/a/b"),
        ("s3://bucket//a", "bucket//a"),
        ("s3://bucket/a#1?x=%20&[b]", "bucket/a#1?x=%20&[b]"),
        ("file:///tmp/a#1", "/tmp/a#1"),
        ("file://localhost/tmp/a?1", "/tmp/a?1"),
        ("/tmp/a%20b#c", "/tmp/a%20b#c"),
    ],
)
def test_all_of_a_key_means_itself(uri: str, root: str) -> None:
    store = resolve(uri)
    assert store.root == root
    assert resolve(store.uri).root == root


def test_azure_takes_the_account_from_an_abfs_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    store = resolve("abfss://data@myaccount.dfs.core.windows.net/runs")
    assert (store.root, store.uri) == ("data/runs", "abfss://data@myaccount.dfs.core.windows.net/runs")
    assert store.files._fs.service_client.account_name == "myaccount"  # type: ignore[attr-defined]
    assert resolve(store.child("x").uri).root == "data/runs/x"


def test_two_accounts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one = "DefaultEndpointsProtocol=https;AccountName=one;AccountKey=a2V5;EndpointSuffix=core.windows.net"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", one)
    with pytest.raises(UserError, match="names the account two, AZURE_STORAGE_CONNECTION_STRING another"):
        resolve("abfs://data@two.dfs.core.windows.net/runs")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("ftp://bucket/x", "scheme 'ftp' is unknown; use s3://bucket/prefix, gs://"),
        ("S3://bucket/x", "scheme 'S3' is unknown"),
        ("s3:///x", "names no bucket"),
        ("gs://", "names no bucket"),
        ("s3://[bucket/x", "is no name of a bucket"),
        ("s3://buck et/x", "is no name of a bucket"),
        ("az://con#tainer/x", "is no name of a bucket"),
        ("s3://bucket/a/../b", "no '..'"),
        ("gs://bucket/./b", "no '..'"),
        ("file://host/x", "three slashes"),
        ("~no-such-user/x", "there is no such user"),
    ],
)
def test_uris_that_lead_nowhere(uri: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(uri)


@pytest.mark.parametrize("uri", ["s3://AKIAKEY:hunter2@bucket/x", "gs://hunter2@bucket/x", "az://hunter2@bucket"])
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(UserError, match="holds no credentials") as refused:
        resolve(uri)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is refused.value.__context__ is None


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("127.0.0.1:9000", "no URL of a server"),
        ("ftp://host", "no URL of a server"),
        ("http://[::1", "no URL"),
        ("https://host:port", "no URL"),
        ("https://host/path", "has a path; write https://host"),
        ("https://host?x=1", "has a path"),
        ("https://user:hunter2@host", "holds credentials"),
        ("https://hunter2@host/path", "holds credentials"),
    ],
)
def test_endpoints_that_lead_nowhere(endpoint: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        resolve(Location("s3://bucket/x", endpoint))
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(("uri", "library"), [("gs://bucket/x", "gcs"), ("az://bucket/x", "azure")])
def test_a_missing_extra_is_named_with_its_command(uri: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gcsfs", "gcsfs.core", "adlfs"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"plca_dist.storage.clouds.{library}", raising=False)
    with pytest.raises(UserError, match=rf"pip install 'plca-dist\[{library}\]'"):
        resolve(uri)


def test_no_account_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_NAME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="there is no Azure account; set AZURE_STORAGE_CONNECTION_STRING"):
        resolve("az://bucket/x")


@pytest.mark.parametrize("uri", ["s3://file", "s3://bucket/", "gs://bucket", "az://bucket//"])
def test_a_bucket_is_no_file(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="names no file"):
        file_at(uri)


def test_file_uri_and_path_are_the_same_place(tmp_path: Path) -> None:
    resolve(f"file://{tmp_path}").write("x", b"1")
    assert resolve(str(tmp_path)).read("x") == b"1"


def test_a_location_means_the_same_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://general")
    runs, bucket = Location("runs"), Location("s3://bucket/runs", "http://mine")
    assert pickle.loads(pickle.dumps(runs.absolute())) == Location(f"{tmp_path}/runs", "http://general")
    assert bucket.absolute() == bucket
    assert bucket.with_uri("s3://bucket/data") == Location("s3://bucket/data", "http://mine")


def test_a_place_is_found_again_in_another_process(cloud: str) -> None:
    """A filesystem travels to Ray's workers, which open it with their own credentials."""
    store = probe(f"{cloud}/travels")
    store.write("x", b"1")
    arrow = pickle.loads(pickle.dumps(store.arrow()))
    with arrow.open_input_stream(f"{store.root}/x") as stream:
        assert stream.read() == b"1"
