"""A small proxy in front of an object store. It fails as object stores do, and it counts the bytes read.

    with FaultyProxy(server.endpoint) as proxy:         # or kind="azure", kind="gcs"
        proxy.refuse = 0.3          # of requests, from now on
        ... use proxy.endpoint as the store's endpoint ...

The Host header is passed on unchanged: S3's signatures cover it, and Google's servers name it in their answers.
"""

import http.client
import random
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from benchmarks.servers.bodies import read_body
from benchmarks.servers.refusals import refusal


class FaultyProxy:
    """A context manager; the proxy serves from a thread until the block ends.

    Attributes:
        endpoint: URL to use instead of the server's.
        refuse: share of requests, 0-1, that get a 503, in the form of this `kind` of store: "s3", "azure" or "gcs".
        why: "busy", or what a refused request gets in place of the 503: "denied", "expired" or "quota".
        drop: share of requests whose connection is reset instead of an answer.
        cut: share of GETs that get half of a body, then a reset.
        truncate: share of GETs that get half of a body, with a length that fits it: nothing looks wrong.
        lag_s: seconds by which listings are behind.
        stall: share of requests that are answered only after `stall_s` seconds.
        faults: number of faults by the names above and "away".
        requests: number of requests by method.
        asked: number of requests by method and path, with the query.
        read: bytes sent for GETs, by path (/bucket/key; /account/container/key with Azurite).
    """

    def __init__(self, upstream: str, seed: int = 0, kind: str = "s3", certificate: Path | None = None) -> None:
        self.kind, self.why = kind, "busy"
        self.refuse = self.drop = self.cut = self.truncate = self.stall = self.lag_s = 0.0
        self.stall_s = 5.0
        self.faults: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.asked: Counter[tuple[str, str]] = Counter()
        self.read: Counter[str] = Counter()
        address = urlsplit(upstream)
        self._upstream = address.netloc
        self._random, self._lock = random.Random(seed), threading.Lock()
        self._away_until = 0.0
        self._listed: dict[str, list[tuple[float, Any]]] = {}
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        if certificate:  # a file with a key and a certificate for 127.0.0.1
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "https" if certificate else "http"
        self.endpoint = f"{scheme}://127.0.0.1:{self._server.server_address[1]}{address.path}"

    def away(self, seconds: float) -> None:
        """Reset every connection for the next `seconds`; 0 ends an outage."""
        self._away_until = time.monotonic() + seconds

    def __enter__(self) -> "FaultyProxy":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _lagging(self, path: str, answer: Any) -> Any:
        """Note the answer to a listing; returns the one that a store would give whose listings are `lag_s` behind."""
        with self._lock:
            known = self._listed.setdefault(path, [])
            known.append((time.monotonic(), answer))
            behind = [a for at, a in known if at < time.monotonic() - self.lag_s]
            del known[:-50]
            if self.lag_s and behind:
                self.faults["lag"] += 1
                return behind[-1]
            return answer

    def _fault(self, method: str, path: str) -> str | None:
        with self._lock:
            self.requests[method] += 1
            self.asked[method, path] += 1
            drawn = self._random.random()
            fault = None
            if time.monotonic() < self._away_until:
                fault = "away"
            else:
                for name in ("refuse", "drop", "cut", "truncate", "stall"):
                    if name in ("cut", "truncate") and method != "GET":
                        continue
                    if drawn < (share := getattr(self, name)):
                        fault = name
                        break
                    drawn -= share
            if fault:
                self.faults[fault] += 1
            return fault


def _lists(path: str) -> bool:
    """Whether a GET of this path is an S3 listing."""
    return "list-type=2" in path


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        """Print nothing where a client goes away."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy
    _backend: http.client.HTTPConnection | None = None

    def _serve(self) -> None:
        body = read_body(self.headers, self.rfile)
        fault = self.proxy._fault(self.command, self.path)
        if fault in ("away", "drop"):
            self._reset()
            return
        if fault == "refuse":
            refused = refusal(self.proxy.kind, self.proxy.why)
            self._answer(refused.status, refused.reason, refused.headers, refused.body)
            return
        if fault == "stall":
            time.sleep(self.proxy.stall_s)
        response = self._forward(body)
        data = response.read()
        headers = [(k, v) for k, v in response.getheaders() if k.lower() not in ("transfer-encoding", "connection")]
        if self.command != "HEAD":
            headers = [(k, v) for k, v in headers if k.lower() != "content-length"]
        if self.command == "GET" and _lists(self.path):
            data = self.proxy._lagging(self.path, data)
        if fault == "truncate" and response.status < 300:
            data = data[: len(data) // 2]
        if self.command == "GET":
            with self.proxy._lock:
                self.proxy.read[self.path.partition("?")[0]] += len(data)
        self._answer(response.status, response.reason, headers, data, cut=fault == "cut")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = _serve

    def _forward(self, body: bytes) -> http.client.HTTPResponse:
        if self._backend is None:
            self._backend = http.client.HTTPConnection(self.proxy._upstream, timeout=120)
        self._backend.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "expect", "transfer-encoding", "content-length"):
                self._backend.putheader(name, value)
        if body or self.command in ("PUT", "POST", "PATCH"):
            self._backend.putheader("Content-Length", str(len(body)))
        self._backend.endheaders(body or None)
        return self._backend.getresponse()

    def _answer(self, status: int, reason: str, headers: list[tuple[str, str]], data: bytes, cut: bool = False) -> None:
        lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
        if self.command != "HEAD" and status != 204:
            lines.append(f"Content-Length: {len(data)}")
        self.wfile.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        if self.command == "HEAD":
            data = b""
        self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.wfile.flush()
            time.sleep(0.05)  # a reset discards bytes that the client has not read yet
            self._reset()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def finish(self) -> None:
        super().finish()
        if self._backend:
            self._backend.close()

    def log_message(self, *_: Any) -> None:
        """Print no line for each request."""
