"""What a person may write as a place, and what each means."""

import pickle
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plca_dist.errors import UserError
from plca_dist.storage import Location, file_at, probe, resolve
from plca_dist.storage.cloud_files import CloudFiles


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


SECRET = "hunter2"
_USERS = ["", f"user:{SECRET}@", f"{SECRET}@", f"us/er:{SECRET}@", f"u#{SECRET}@", f"u?x:{SECRET}@", f"u\\{SECRET}@"]
_HOSTS = [
    "host", "127.0.0.1", "[::1]", "[::1", "::1", "ho st", "a..b", "ho_st", "-h", "ü.de", "", "x" * 64, "a\nb", "a%20b",
    "a\\b", "[x]", "*",
]  # fmt: skip
_PORTS = ["", ":9000", ":99999", ":x", ":-1", ":9 0"]
_PATHS = ["", "/", "//", "/p", f"/{SECRET}", f"?sig={SECRET}", "?", "#", f"#{SECRET}"]
_SCHEMES = ["http://", "https://", "", "ftp://", "s3://", "http:", "http:/", "//", " http://"]


def _refused(place: Location | str) -> UserError | None:
    """The refusal of a place: one line, without the secret and without an error that may have it."""
    try:
        resolve(place)
    except UserError as error:
        found = error
    else:
        return None
    assert SECRET not in str(found)
    assert "\n" not in str(found)
    assert found.__cause__ is None
    assert found.__suppress_context__ or found.__context__ is None
    return found


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scheme=st.sampled_from(_SCHEMES),
    user=st.sampled_from(_USERS),
    host=st.sampled_from(_HOSTS),
    port=st.sampled_from(_PORTS),
    path=st.sampled_from(_PATHS),
    way=st.sampled_from(["setting", "variable", "local"]),
)
def test_an_endpoint_is_a_server_or_one_line_without_secrets(
    scheme: str, user: str, host: str, port: str, path: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `storage.endpoint`, as a variable, and beside a local directory, where it would stand in the recipe alone."""
    endpoint = f"{scheme}{user}{host}{port}{path}"
    sound = scheme in _SCHEMES[:2] and not user and host in _HOSTS[:3] and port in _PORTS[:2] and path in _PATHS[:2]
    variable = endpoint if way == "variable" else "http://127.0.0.1:9"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", variable)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    place = Location("/tmp" if way == "local" else "s3://bucket/x", None if way == "variable" else endpoint)
    assert (_refused(place) is None) == (sound or not endpoint)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scheme=st.sampled_from(["s3", "gs", "az", "abfs", "ftp", "file", "http", "", "S3", f"s3://{SECRET}@x:s3"]),
    user=st.sampled_from(_USERS),
    bucket=st.sampled_from(["bucket", "[bucket", "buck et", "", "b", "bücket", "bucket:1", "."]),
    key=st.sampled_from(["", "/", "/x", "//x", "/../x", "/a/./b", "/a@b", "/\0", "/ü"]),
)
def test_a_uri_is_a_place_or_one_line_without_secrets(
    scheme: str, user: str, bucket: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")  # or Google's credentials are looked for
    if _refused(f"{scheme}://{user}{bucket}{key}") is None:
        # All of a key means itself: in s3://us/er:…@bucket/x the bucket is `us`.
        assert scheme in ("s3", "gs", "az", "abfs", "file") or not user
        assert not user or user.startswith("us/") or scheme == "file"


def test_an_emulator_with_credentials_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("user:hunter2@127.0.0.1:9", "http://user:hunter2@127.0.0.1:9", "http://[::1"):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", host)
        assert _refused("gs://bucket/x")


def test_a_password_of_a_proxy_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://user:{SECRET}@127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with pytest.raises(UserError) as refused:
        probe(Location("s3://bucket/x", "http://192.0.2.1"))
    assert SECRET not in str(refused.value)
    said = CloudFiles.explain(resolve(Location("s3://bucket/x")).files, OSError(f"proxy http://user:{SECRET}@h"))  # type: ignore[arg-type]
    assert SECRET not in said[0]


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("127.0.0.1:9000", "'127.0.0.1:9000' is no URL of a server; write https://host or http://host:port"),
        ("ftp://host", "'ftp://host' is no URL of a server"),
        ("http://[::1", "'http://.*' is no URL"),
        ("https://host:port", "no URL"),
        ("https://host/path", "has a path; write https://host, and paths into URIs"),
        ("https://host?x=1", "has a path"),
        ("http:///hunter2", "'http://' is no URL of a server"),
        ("https://user:hunter2@host", "holds credentials"),
    ],
)
def test_endpoints_that_lead_nowhere(endpoint: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(Location("s3://bucket/x", endpoint))


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
