"""What docs/operations.md says of each cloud: the permissions are those that are needed, the versions the image's."""

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from plca_dist.storage import file_at, probe, prove_created_once
from tests.docs.documents import ROOT, blocks

TEXT = (ROOT / "docs/operations.md").read_text()
#: Request -> what AWS asks permission for.
ACTIONS = {
    "list_objects_v2": "s3:ListBucket", "head_object": "s3:GetObject", "get_object": "s3:GetObject",
    "put_object": "s3:PutObject", "create_multipart_upload": "s3:PutObject", "upload_part": "s3:PutObject",
    "complete_multipart_upload": "s3:PutObject", "abort_multipart_upload": "s3:AbortMultipartUpload",
    "delete_object": "s3:DeleteObject", "list_multipart_uploads": "s3:ListBucketMultipartUploads",
}  # fmt: skip


def policy() -> list[dict[str, Any]]:
    (found,) = [json.loads(block.text) for block in blocks(TEXT) if block.text.startswith("{")]
    return found["Statement"]


def allowing(action: str, key: str) -> list[str]:
    """The statements that allow an action on a key, or on a prefix that is listed."""
    found = []
    for statement in policy():
        actions, resources = ([v] if isinstance(v := statement[k], str) else v for k in ("Action", "Resource"))
        condition = statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix")
        name = "arn:aws:s3:::bucket" if action.startswith("s3:ListBucket") else f"arn:aws:s3:::bucket/{key}"
        fits = any(fnmatchcase(name, resource) for resource in resources)
        if action in actions and fits and (condition is None or any(fnmatchcase(key, one) for one in condition)):
            found.append(statement["Sid"])
    return found


@pytest.fixture
def requests(s3: object, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Action and key, or prefix, of every request to S3 from now on."""
    seen: list[tuple[str, str]] = []
    call = s3fs.S3FileSystem._call_s3

    async def recording(self: Any, method: str, *options: Any, **named: Any) -> Any:
        seen.append((ACTIONS[method], named["Prefix"] if method.startswith("list_") else named["Key"]))
        return await call(self, method, *options, **named)

    pages = s3fs.S3FileSystem._list_pages

    def listing(self: Any, method: str, **named: Any) -> Any:
        seen.append((ACTIONS[method], named["Prefix"]))
        return pages(self, method, **named)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", recording)
    monkeypatch.setattr(s3fs.S3FileSystem, "_list_pages", listing)
    return seen


def test_the_policy_allows_all_that_a_run_asks_and_nothing_else(
    requests: list[tuple[str, str]], tmp_path: Path
) -> None:
    run = probe("s3://bucket/runs").child("policy")
    assert not run.exists("absent")
    run.create("lease", b"1")
    prove_created_once(run, "lease", b"1")
    (tmp_path / "large").write_bytes(bytes(20 << 20))
    run.upload(tmp_path / "large", "large")
    run.download("large", tmp_path / "again")
    with run.writer("table") as file:
        pq.write_table(pa.table({"a": [1]}), file)
    pq.read_table(f"{run.root}/table", filesystem=run.arrow())
    run.write("lease", b"2")
    run.files._fs.call_s3("create_multipart_upload", Bucket="bucket", Key="runs/policy/cut")
    run.clear_unfinished(besides="lease")
    probe("s3://bucket/runs").delete_tree("policy")
    refused = [request for request in requests if not allowing(*request)]
    assert not refused
    used = {(statement, action) for action, key in requests for statement in allowing(action, key)}
    asked = {(s["Sid"], action) for s in policy() if s["Sid"] != "ReadData" for action in [s["Action"]]
             for action in ([action] if isinstance(action, str) else action)}  # fmt: skip
    assert asked == used


def test_the_policy_lets_data_be_read_and_no_more(requests: list[tuple[str, str]]) -> None:
    folder, name = file_at("s3://bucket/weights/absent.pth")
    assert not folder.exists(name)
    assert not probe("s3://bucket/shards").exists("manifest.json")
    assert requests
    assert [request for request in requests if not allowing(*request)] == []
    assert not any(allowing(action, "shards/x") for action in ("s3:PutObject", "s3:DeleteObject"))
    assert not allowing("s3:GetObject", "others/x")
    assert not allowing("s3:ListBucket", "")


def test_the_versions_are_the_images() -> None:
    named = re.findall(r"\b(s3fs|botocore|gcsfs|adlfs|azure-storage-blob|azure-identity) (\d[\d.]*\d)", TEXT)
    pins = [line.partition(" ")[0] for line in (ROOT / "cluster/requirements.txt").read_text().splitlines()]
    assert len(named) == 6
    assert [pin for pin in ("==".join(one) for one in named) if pin not in pins] == []
