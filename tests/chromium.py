"""A headless Chromium that opens pages, spoken to over a pipe: no port, nothing but the program needed."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_ANSWER_S = 60.0
_NOISE = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-gpu")
#: Moves two descriptors to 3 and 4, wherever they are, and becomes another program.
_START = """import fcntl, os, sys
for number, fd in enumerate([fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]], 3):
    os.dup2(fd, number)
os.execv(sys.argv[3], sys.argv[3:])"""


def program() -> str | None:
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


@dataclass
class Opened:
    """A page as the browser has it.

    Attributes:
        requests: URLs that it asked for beyond its own, those within the page (data:) left out.
        complaints: messages of the console and of the browser.
    """

    browser: "Chromium"
    session: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self.browser.call("Runtime.evaluate", self.session, expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, file: Path) -> None:
        """The whole page, from top to bottom."""
        shot = self.browser.call("Page.captureScreenshot", self.session, captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))


class Chromium:
    """A context manager. Chromium reads commands from its descriptor 3 and answers on 4, both ended by a zero byte."""

    def __init__(self, profile: Path) -> None:
        self._profile = profile
        self._pages: dict[str, Opened] = {}
        self._calls = 0
        self._rest = b""

    def __enter__(self) -> Self:
        there, self._write = os.pipe()
        self._read, back = os.pipe()
        found = program()
        assert found
        # --no-sandbox because tests may run as root.
        asked = ["--headless", "--no-sandbox", *_NOISE, "--remote-debugging-pipe", f"--user-data-dir={self._profile}"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(there), str(back), found, *asked],
            pass_fds=(there, back),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(there)
        os.close(back)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._write)  # it ends when nobody speaks to it any more
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)

    def open(self, url: str, width: int, height: int = 900, *, dark: bool = False) -> Opened:
        """The page at `url` in a window of that size, loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Opened(self, session)
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable", session)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", session, **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", session, features=[scheme])
        self.call("Page.navigate", session, url=url)
        deadline = time.monotonic() + _ANSWER_S
        while page.ask("location.href") != url or page.ask("document.readyState") != "complete":
            assert time.monotonic() < deadline, f"{url} does not load"
            time.sleep(0.05)
        assert page.requests.pop(0) == url
        return page

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """The answer to a command; what happens in pages meanwhile is noted in them."""
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": parameters}
        os.write(self._write, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == self._calls:
                assert "error" not in told, told
                return told["result"]
            self._note(told)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            got = os.read(self._read, 1 << 20)
            assert got, "the browser has gone"
            self._rest += got
        line, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(line)
        return told

    def _note(self, told: dict[str, Any]) -> None:
        page, what, about = self._pages.get(told.get("sessionId", "")), told.get("method"), told.get("params", {})
        if page is None:
            return
        if what == "Network.requestWillBeSent" and not about["request"]["url"].startswith("data:"):
            page.requests.append(about["request"]["url"])
        elif what == "Log.entryAdded":
            page.complaints.append(about["entry"]["text"])
        elif what in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            page.complaints.append(json.dumps(about))
