"""A headless Chromium that opens pages. Tests speak to it over a pipe, so that no port and no library is needed."""

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
#: Moves two descriptors to 3 and 4 and becomes another program.
_START = """import fcntl, os, sys
for number, fd in enumerate([fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]], 3):
    os.dup2(fd, number)
os.execv(sys.argv[3], sys.argv[3:])"""


def program() -> str | None:
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


@dataclass
class Opened:
    """A page that the browser has loaded.

    Attributes:
        requests: URLs that the page asked for beside its own, without those within it (data:).
        complaints: messages of the console and of the browser.
    """

    browser: "Chromium"
    session: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.browser.call("Runtime.evaluate", self.session, expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

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
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        executable = program()
        assert executable
        # --no-sandbox because tests may run as root.
        options = ["--headless", "--no-sandbox", *_NOISE, "--remote-debugging-pipe", f"--user-data-dir={self._profile}"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(commands), str(answers), executable, *options],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._write)  # the browser ends when its pipe is closed
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)

    def open(self, url: str, width: int, height: int = 900, *, dark: bool = False) -> Opened:
        """Load the page at `url` in a window of that size."""
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
        """The answer to a command. Events of pages that arrive before it are noted in the pages."""
        self._calls += 1
        command = {"id": self._calls, "method": method, "params": parameters}
        os.write(self._write, json.dumps(command | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._calls:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._read, 1 << 20)
            assert data, "the browser has gone"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        page, method = self._pages.get(event.get("sessionId", "")), event.get("method")
        parameters = event.get("params", {})
        if page is None:
            return
        if method == "Network.requestWillBeSent" and not parameters["request"]["url"].startswith("data:"):
            page.requests.append(parameters["request"]["url"])
        elif method == "Log.entryAdded":
            page.complaints.append(parameters["entry"]["text"])
        elif method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            page.complaints.append(json.dumps(parameters))
