"""The process that `benchmarks.servers.gcs` runs: gcp-storage-emulator in memory, on two ports.

Corrected for both: bytes of uploads arrive as they were sent, keys that differ only in empty parts are two objects,
listings have pages, ranges may count from the end, and a write costs the same however many objects there are. The
first port adds preconditions.
"""

import base64
import io
import json
import re
import sys
import threading
from functools import partial
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from gcp_storage_emulator import server as emulator
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.storage import Storage

from benchmarks.servers.bodies import read_body

_OBJECTS = re.compile(r"(?:/storage/v1)?/b/(?P<bucket>[^/]+)/o(?:/(?P<key>[^/]+))?")
_UPLOADS = re.compile(r"/upload/storage/v1/b/(?P<bucket>[^/]+)/o")
_DOWNLOADS = re.compile(r"/download/storage/v1/b/(?P<bucket>[^/]+)/o/(?P<key>[^/]+)")
#: Reasons and messages of Google's answers, by status.
_ERRORS = {
    404: ("notFound", "The specified bucket does not exist."),
    412: ("conditionNotMet", "At least one of the pre-conditions you specified did not hold."),
    416: ("requestedRangeNotSatisfiable", "Request range not satisfiable"),
    499: ("cancelled", "Client Closed Request"),  # what a cancelled upload answers
}


class _Store(Storage):
    """The emulator's objects, in memory, each under its own key, and gone when deleted."""

    def _object_path(self, bucket_name: str, file_name: str) -> str:
        return f"{bucket_name}/={quote(file_name, safe='')}"

    def _write_config_to_file(self) -> None:
        """Write nothing: it would be a list of all objects after each write."""

    def _bucket_soft_delete_retention_seconds(self, bucket_name: str) -> int:
        return 0


class _Handler(emulator.RequestHandler):
    protocol_version = "HTTP/1.1"
    conditional = False
    lock = threading.Lock()

    def _serve(self) -> None:
        body = read_body(self.headers, self.rfile)
        path, mark, query = self.path.partition("?")
        self.path = path.replace(";", "%3B") + mark + query  # the emulator's router drops what follows
        del self.headers["Transfer-Encoding"], self.headers["Content-Length"]
        self.headers["Content-Length"] = str(len(body))
        stream, self.rfile, client, self.wfile = self.rfile, io.BytesIO(body), self.wfile, io.BytesIO()
        try:
            with self.lock:
                self._answer(body)
            answer = self.wfile.getvalue()
        finally:
            self.rfile, self.wfile = stream, client
        client.write(answer)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve

    def _answer(self, body: bytes) -> None:
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        if self.conditional and not self._holds(address.path, query, body):
            self._fail(412)
        elif self.command == "DELETE" and "upload_id" in query:
            self.storage.resumable.pop(query["upload_id"], None)
            self._fail(499)
        elif self.command == "GET" and {"maxResults", "pageToken"} & set(query) and _OBJECTS.fullmatch(address.path):
            self._list(unquote(_OBJECTS.fullmatch(address.path)["bucket"]), query)
        elif self.command == "GET" and "Range" in self.headers and not self._within_range(address.path, query):
            self._fail(416)
        else:
            emulator.Router(self).handle(self.command)

    def _holds(self, path: str, query: dict[str, str], body: bytes) -> bool:
        """Whether the generation that the request names is that of the object; 0 is that of an absent one."""
        uploads, deletes = _UPLOADS.fullmatch(path), _OBJECTS.fullmatch(path)
        if "ifGenerationMatch" not in query or self.command == "GET" or not (uploads or deletes):
            return True
        if deletes:
            bucket, key = deletes["bucket"], unquote(deletes["key"] or "")
        else:
            bucket, key = uploads["bucket"], query.get("name")
            if "upload_id" in query:
                key = self.storage.resumable.get(query["upload_id"], {}).get("name")
            elif key is None:
                multipart = query.get("uploadType") == "multipart"
                key = (_parts(self.headers.get_boundary(), body)["meta"] if multipart else json.loads(body))["name"]
        stored = self.storage.objects.get(bucket, {}).get(key)
        return query["ifGenerationMatch"] == (stored["generation"] if stored else "0")

    def _within_range(self, path: str, query: dict[str, str]) -> bool:
        """Whether the range begins within the object. One that counts from the end becomes one from the start."""
        read = _DOWNLOADS.fullmatch(path) or (query.get("alt") == "media" and _OBJECTS.fullmatch(path))
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        try:
            size = len(self.storage.get_file(read["bucket"], unquote(read["key"]))) if read else None
        except NotFound:
            size = None
        if size is None:
            return True
        if not first:
            del self.headers["Range"]
            self.headers["Range"] = f"bytes={max(size - int(last), 0)}-"
        return int(first or 0) < size

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        try:
            found = self.storage.get_file_list(bucket, query.get("prefix"), query.get("delimiter"))
        except NotFound:
            self._fail(404)
            return
        after = base64.urlsafe_b64decode(query.get("pageToken", "")).decode()
        entries = [(one["name"], "items", one) for one in found[0]] + [(one, "prefixes", one) for one in found[1]]
        entries = sorted((one for one in entries if one[0] > after), key=lambda one: one[0])
        page = entries[: min(int(query.get("maxResults", 1000)), 1000)]
        answer: dict[str, Any] = {"kind": "storage#objects"}
        for _, kind, entry in page:
            answer.setdefault(kind, []).append(entry)
        if len(page) < len(entries):
            answer["nextPageToken"] = base64.urlsafe_b64encode(page[-1][0].encode()).decode()
        self._send(200, answer)

    def _fail(self, status: int) -> None:
        reason, message = _ERRORS[status]
        errors = [{"message": message, "domain": "global", "reason": reason}]
        self._send(status, {"error": {"code": status, "message": message, "errors": errors}})

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status, _ERRORS[status][1] if status in _ERRORS else "OK")
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class _Conditional(_Handler):
    conditional = True


def _parts(boundary: str, body: bytes) -> dict[str, Any]:
    """The two parts of an upload: the object's description, and its bytes up to the last boundary."""
    delimiter = b"--" + boundary.encode()
    line = b"\r\n" if body.startswith(delimiter + b"\r\n") else b"\n"
    description, _, rest = body.partition(line + delimiter)
    headers, _, content = rest[: rest.rindex(line + delimiter)].partition(line * 2)
    kind = re.search(rb"(?i)content-type:\s*([^\r\n]+)", headers)
    return {
        "meta": json.loads(description.partition(line * 2)[2]),
        "content": content,
        "content-type": kind[1].decode() if kind else "application/octet-stream",
    }


def _read_data(handler: _Handler, query: dict[str, list[str]], otherwise: Any = emulator._read_data) -> Any:
    """As the emulator has it, but for empty uploads, and those in two parts, which lose a last carriage return."""
    if handler.headers.get("Content-Type", "").startswith("multipart/related"):
        return _parts(handler.headers.get_boundary(), handler.rfile.read())
    data = otherwise(handler, query)
    return b"" if data is None else data


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


def main(bucket: str) -> None:
    """Serve until the standard input ends. The two ports are the first line of the output."""
    emulator._read_data = _read_data
    storage = _Store(use_memory_fs=True, data_dir="/")
    buckets.create_bucket(bucket, storage)
    ports = []
    for conditional in (True, False):
        server = _Server(("127.0.0.1", 0), partial(_Conditional if conditional else _Handler, storage))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ports.append(server.server_address[1])
    print(json.dumps(ports), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
