"""What a store does wrong, or is asked wrongly: patience where it helps, and otherwise one line with the cause."""

import contextlib
import datetime
import importlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks.servers.azurite import Azure, connection_string, shared_access
from benchmarks.servers.proxy import FaultyProxy
from benchmarks.servers.seaweed import READ_ACCESS, READ_SECRET, S3
from benchmarks.servers.stores import KINDS
from plca_dist.errors import UserError
from plca_dist.storage import Location, Store, StoreAway, probe, resolve
from plca_dist.storage.clouds import limits
from tests.environment import set_all
from tests.storage.clouds import CLOUDS

NOBODY = "http://127.0.0.1:9"


class Behind(NamedTuple):
    """A bucket behind a proxy that fails when it is told to."""

    proxy: FaultyProxy
    uri: str

    def store(self, patience_s: float = 0.0) -> Store:
        return resolve(f"{self.uri}/behind", patience_s=patience_s)


AtOnce = Callable[[Callable[[Behind], None]], object]


@pytest.fixture(params=CLOUDS)
def behind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Behind]:
    server = request.getfixturevalue(request.param)
    with FaultyProxy(server.endpoint, kind=request.param) as proxy:
        set_all(monkeypatch, KINDS[request.param].through(server, proxy.endpoint))
        yield Behind(proxy, KINDS[request.param].bucket)


@pytest.fixture
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[AtOnce]:
    """Makes the same check of every cloud, each behind its proxy, at the same time: they mostly wait."""
    with contextlib.ExitStack() as stack:
        places = []
        for name in CLOUDS:
            server = request.getfixturevalue(name)
            proxy = stack.enter_context(FaultyProxy(server.endpoint, kind=name))
            set_all(monkeypatch, KINDS[name].through(server, proxy.endpoint))
            places.append(Behind(proxy, KINDS[name].bucket))
        pool = stack.enter_context(ThreadPoolExecutor(len(places)))
        yield lambda check: list(pool.map(check, places))


@pytest.fixture(params=CLOUDS)
def nowhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket on a server that is not there."""
    server = request.getfixturevalue(request.param)
    set_all(monkeypatch, KINDS[request.param].through(server, NOBODY))
    return KINDS[request.param].bucket


def test_a_missing_bucket(cloud: str) -> None:
    missing = f"{cloud.partition('://')[0]}://no-such-bucket"
    with pytest.raises(UserError, match=f"{missing}/x.*(bucket|container) does not exist; create it") as refused:
        probe(f"{missing}/x")
    assert "\n" not in str(refused.value)


def test_no_server(nowhere: str) -> None:
    began = time.monotonic()
    with pytest.raises(StoreAway, match="endpoint does not answer; check") as refused:
        probe(f"{nowhere}/x")
    assert "\n" not in str(refused.value)
    assert time.monotonic() - began < 20


class TestCredentials:
    def test_of_s3_the_secret_is_wrong(self, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
        with pytest.raises(UserError, match="secret key is wrong; check AWS_SECRET_ACCESS_KEY") as refused:
            probe("s3://bucket/x")
        assert "hunter2" not in str(refused.value)
        with pytest.raises(UserError, match=r"s3://bucket/x/once: the secret key is wrong"):
            resolve("s3://bucket/x").create("once", b"1")

    def test_of_s3_the_key_is_unknown(self, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        with pytest.raises(UserError, match="does not know this access key; check AWS_ACCESS_KEY_ID"):
            probe("s3://bucket/x")

    def test_of_s3_there_are_none(self, s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(UserError, match="there are no credentials; set AWS_ACCESS_KEY_ID"):
            probe("s3://bucket/x")

    def test_of_s3_they_are_for_reading(self, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        resolve("s3://bucket/read").write("x", b"1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", READ_ACCESS)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READ_SECRET)
        _reads_only(probe("s3://bucket/read"))

    def test_of_azure_the_key_is_wrong(self, azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection_string(azure, key="aHVudGVyMg=="))
        with pytest.raises(
            UserError, match=r"(secret key is wrong|access is denied); check .*AZURE_STORAGE_CONNECTION_STRING"
        ) as refused:
            probe("az://bucket/x")
        assert "aHVudGVyMg" not in str(refused.value)

    def test_of_azure_the_connection_string_is_none(self, azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "hunter2")
        with pytest.raises(UserError, match="is no such thing") as refused:
            probe("az://bucket/x")
        assert "hunter2" not in str(refused.value)

    def test_of_azure_they_are_for_reading(self, azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
        resolve("az://bucket/read").write("x", b"1")
        signature = shared_access(azure)
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection_string(azure, sas=signature))
        _reads_only(probe("az://bucket/read"))

    def test_of_azure_they_have_expired(self, azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
        signature = shared_access(azure, seconds=-60)
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection_string(azure, sas=signature))
        with pytest.raises(UserError, match=r"AZURE_STORAGE_SAS_TOKEN"):
            probe("az://bucket/x")

    def test_of_google_there_are_none(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        with pytest.raises(UserError, match="there are no credentials; set GOOGLE_APPLICATION_CREDENTIALS"):
            probe("gs://bucket/x")

    def test_of_google_the_file_is_missing(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
        with pytest.raises(UserError, match="there are no credentials; set GOOGLE_APPLICATION_CREDENTIALS"):
            probe("gs://bucket/x")


def _reads_only(store: Store) -> None:
    assert store.read("x") == b"1"
    assert [e.name for e in store.list()] == ["x"]
    for refused in (lambda: store.write("x", b"2"), lambda: store.create("y", b"2"), lambda: store.delete("x")):
        with pytest.raises(UserError, match=r"access is denied; check the credentials"):
            refused()
    assert store.read("x") == b"1"


def test_a_store_that_refuses_for_good_says_why(at_once: AtOnce, tmp_path: Path) -> None:
    """Whatever it was asked: a HEAD too, whose answer has no body for the reason."""
    (tmp_path / "source").write_bytes(b"1")

    def check(behind: Behind) -> None:
        store = behind.store(patience_s=60)
        ways = (
            lambda: store.read("x"), lambda: store.read_range("x", 0, 1), lambda: store.exists("x"), store.list,
            lambda: store.write("x", b"1"), lambda: store.create("y", b"1"), lambda: store.delete("x"),
            lambda: store.upload(tmp_path / "source", "x"), lambda: store.download("x", tmp_path / behind.uri[:2]),
        )  # fmt: skip
        for why, message in (
            ("denied", "access is denied.*(AccessDenied|AuthorizationPermissionMismatch|does not have storage)"),
            ("expired", "the credentials have expired; renew them"),
            ("quota", "its quota is used up; make room"),
        ):
            behind.proxy.why, behind.proxy.refuse = why, 1.0
            for ask in ways:
                began = time.monotonic()
                with pytest.raises(UserError, match=message) as refused:
                    ask()
                assert not isinstance(refused.value, StoreAway)
                assert "\n" not in str(refused.value)
                assert time.monotonic() - began < 20, "it asked again"

    at_once(check)


def test_a_busy_store_is_asked_again(at_once: AtOnce) -> None:
    def check(behind: Behind) -> None:
        store = behind.store(patience_s=60)
        store.write("x", b"whole" * 1000)
        behind.proxy.refuse = 0.3
        for k in range(2):
            assert store.read("x") == b"whole" * 1000
            store.write(f"y{k}", b"1")
            assert store.create(f"z{k}", b"%d" % k)
            assert not store.create(f"z{k}", b"other")
        behind.proxy.refuse = 0.0
        assert [e.name for e in store.list()] == ["x", *(f"{a}{k}" for a in "yz" for k in range(2))]
        assert behind.proxy.faults["refuse"] >= 1

    at_once(check)


def test_connections_that_break_cost_nothing(behind: Behind, tmp_path: Path) -> None:
    store = behind.store(patience_s=60)
    data = bytes(range(256)) * (20 << 12)  # 20 MiB: several parts
    (tmp_path / "source").write_bytes(data)
    behind.proxy.drop, behind.proxy.cut = 0.1, 0.3
    store.upload(tmp_path / "source", "large")
    store.download("large", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == data
    for start in range(0, len(data), 4 << 20):
        assert store.read_range("large", start, start + 1000) == data[start : start + 1000]
    assert behind.proxy.faults["cut"] > 1


def test_answers_that_are_cut_short_and_look_whole_are_asked_for_again(at_once: AtOnce, tmp_path: Path) -> None:
    """Half of a body, with a length that fits it: of objects, of parts of them, of listings and the rest."""

    def check(behind: Behind) -> None:
        store = behind.store(patience_s=60).child("cut")
        data = bytes(range(256)) * (12 << 12)
        store.write("large", data)
        store.write("small", b'{"a": 1}')
        target = tmp_path / behind.uri.partition(":")[0]
        behind.proxy.truncate = 0.4
        for _ in range(3):
            assert store.read("small") == b'{"a": 1}'
            assert store.read_range("large", 1000, 9000) == data[1000:9000]
            assert store.read_range("large", len(data) - 10, len(data) + 10) == data[-10:]
            assert [e.name for e in store.list()] == ["large", "small"]
            assert store.exists("small")
            assert not store.exists("absent")
        store.download("large", target)
        assert target.read_bytes() == data
        assert behind.proxy.faults["truncate"] >= 1

    at_once(check)


def test_an_outage_is_waited_for_and_named_when_it_lasts(at_once: AtOnce) -> None:
    def check(behind: Behind) -> None:
        store = behind.store(patience_s=60)
        store.write("x", b"1")
        behind.proxy.away(4)
        assert store.read("x") == b"1"
        behind.proxy.away(600)
        began = time.monotonic()
        with pytest.raises(StoreAway, match=r"/behind/x: the endpoint does not answer"):
            behind.store(patience_s=2).read("x")
        assert 2 <= time.monotonic() - began < 20
        ended = threading.Event()
        threading.Timer(1, ended.set).start()
        with pytest.raises(StoreAway):
            store.patiently("x", lambda: store.files.read(f"{store.root}/x"), unless=ended)
        behind.proxy.away(0)

    at_once(check)


def test_a_store_that_stalls_is_waited_for_and_not_asked_twice(at_once: AtOnce) -> None:
    """Longer than the three seconds that some clients wait."""

    def check(behind: Behind) -> None:
        store = behind.store()
        store.write("stalled", b"late")
        asked = []
        for behind.proxy.stall, behind.proxy.stall_s in ((0.0, 0.0), (1.0, 4.0)):
            behind.proxy.requests.clear()
            assert store.read("stalled") == b"late"
            asked.append(dict(behind.proxy.requests))
        assert asked[0] == asked[1]
        assert sum(asked[0].values()) == 2  # the object, and whether it is longer

    at_once(check)


def test_a_request_that_stalls_for_too_long_is_given_up_and_asked_again(
    at_once: AtOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(lambda behind: behind.store().write("stalled", b"at last"))
    monkeypatch.setattr(limits, "ANSWER_S", 1)
    monkeypatch.setattr(limits, "TRIES", 1)
    for name in CLOUDS:
        importlib.import_module(f"plca_dist.storage.clouds.{name}")._filesystem.cache_clear()

    def check(behind: Behind) -> None:
        def relent() -> None:
            while behind.proxy.faults["stall"] < 2:
                time.sleep(0.05)
            behind.proxy.stall = 0.0

        behind.proxy.stall, behind.proxy.stall_s = 1.0, 600.0
        threading.Thread(target=relent, daemon=True).start()
        began = time.monotonic()
        assert behind.store(patience_s=60).read("stalled") == b"at last"
        assert 1 < time.monotonic() - began < 60

    at_once(check)


def _certificate(file: Path, address: str = "127.0.0.1", days: int = 1) -> Path:
    """A certificate for an address that nobody knows, of yesterday for some days, and its key."""
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "house")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=9))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    file.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.fixture(scope="module")
def own_authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _certificate(tmp_path_factory.mktemp("authority") / "house.pem")


#: Every kind of request.
_WORK = """
import sys
from pathlib import Path
from plca_dist.errors import UserError
from plca_dist.storage import probe
try:
    store = probe(sys.argv[1])
    store.write("x", b"1"); store.create("y", b"1"); store.upload(Path(sys.argv[0]), "z"); store.delete("x")
    print([e.name for e in store.list()], store.read("y"))
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize(("name", "variable"), [*((name, "SSL_CERT_FILE") for name in CLOUDS), ("s3", "AWS_CA_BUNDLE")])
def test_one_variable_makes_a_certificate_known_to_every_request(
    name: str, variable: str, own_authority: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server: Any = request.getfixturevalue(name)
    (tmp_path / "work.py").write_text(_WORK)
    with FaultyProxy(server.endpoint, kind=name, certificate=own_authority) as proxy:
        mine = {k: v for k, v in os.environ.items() if not k.endswith(("_CA_BUNDLE", "SSL_CERT_FILE"))}
        mine |= {**KINDS[name].through(server, proxy.endpoint), "PYTHONPATH": ":".join(sys.path)}

        def work(**more: str) -> str:
            command = [sys.executable, str(tmp_path / "work.py"), f"{KINDS[name].bucket}/{tmp_path.name}"]
            done = subprocess.run(command, env={**mine, **more}, capture_output=True, text=True, timeout=100)
            assert done.stderr == ""
            return done.stdout

        assert (
            f"certificate is of an authority that is not known here; set {'AWS_CA_BUNDLE' if name == 's3' else 'SSL'}"
            in work()
        )
        assert "(self-signed certificate)" in work()
        assert work(**{variable: str(own_authority)}) == "['y', 'z'] b'1'\n"
        for broken in (tmp_path / "none.pem", tmp_path / "work.py"):
            said = work(**{variable: str(broken)})
            assert said == f"{variable}={broken} is no file of certificates (PEM) that can be read; correct it.\n"


@pytest.mark.parametrize(
    ("certificate", "message"),
    [
        ({"days": -1}, r"certificate does not count; .*this machine's clock.*\(certificate has expired\)"),
        ({"address": "127.0.0.2"}, r"certificate does not count; .*\(IP address mismatch, .*127\.0\.0\.1"),
    ],
)
def test_what_is_wrong_with_a_certificate_is_named(
    certificate: dict[str, Any], message: str, tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _certificate(tmp_path / "house.pem", **certificate)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(file))
    with FaultyProxy(s3.endpoint, certificate=file) as proxy, pytest.raises(UserError, match=message):
        probe(Location("s3://bucket/x", proxy.endpoint))


@pytest.mark.parametrize("name", CLOUDS)
def test_https_to_a_server_without_it_is_named(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    server: Any = request.getfixturevalue(name)
    set_all(monkeypatch, KINDS[name].through(server, server.endpoint.replace("http://", "https://")))
    with pytest.raises(UserError, match=r"agree on no encryption; check .* http:// in place of https://\? \(\w+\)"):
        probe(f"{KINDS[name].bucket}/x")
