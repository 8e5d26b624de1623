"""What is shown: nothing in it is obeyed by a terminal, and no stream that fails ends or spoils what a command does."""

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from plca_dist.cli import main
from plca_dist.errors import RunFailed
from plca_dist.messages import Message, warnings_shown
from plca_dist.output import Output, say, visible
from plca_dist.run.console import Console
from plca_dist.search.console import SearchConsole
from plca_dist.terminal import Counter, Line

NASTY = "a\x1b[2Jb\x07\r\nplca: done\x9b\u2028\u202ec\td"
SHOWN = r"a\x1b[2Jb\x07\r\nplca: done\x9b\u2028\u202ec\td"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Failing(io.TextIOWrapper):
    """A stream that refuses everything, in its own way."""

    def __init__(self, error: Exception) -> None:
        super().__init__(io.BytesIO())
        self._error = error

    def write(self, text: str) -> int:
        raise self._error

    def flush(self) -> None:
        raise self._error


def lines(stream: io.StringIO) -> str:
    """Without what we ourselves write to move the cursor."""
    return stream.getvalue().replace("\x1b[K", "").replace("\x1b[J", "").replace("\x1b[1F", "")


def everything(stream: io.TextIOBase) -> None:
    """All that a command shows, with a nasty name in it."""
    Line(stream).say(NASTY)  # type: ignore[arg-type]
    with Console(10, stream, label=NASTY) as console:  # type: ignore[arg-type]
        console.show(Message("warning", NASTY))
        console.show({"step": 10, "loss/total": 1.0})
        with warnings_shown(console.show):
            logging.getLogger("plca_dist.somewhere").warning("cannot read %s", NASTY)
    with Counter(NASTY, 2, stream) as counter:  # type: ignore[arg-type]
        counter.update(2)
    with SearchConsole("entropy", 2, stream) as search:  # type: ignore[arg-type]
        search.say(NASTY)


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_no_line_is_obeyed(kind: type[io.StringIO]) -> None:
    stream = kind()
    everything(stream)
    text = lines(stream)
    assert text.count(SHOWN) >= 5
    left = set(text) & set("\x1b\x07\x9b\t\u2028\u202e")
    assert not left
    assert "\nplca: done" not in text


@pytest.mark.parametrize(
    "error", [BrokenPipeError(32, "broken pipe"), OSError(28, "no space left"), OSError(5, "I/O"), ValueError("closed")]
)
def test_no_error_of_a_stream_is_anybodys(error: Exception) -> None:
    everything(Failing(error))
    assert Output(Failing(error)).write("text") == 4


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_characters_that_do_not_fit_are_replaced(encoding: str) -> None:
    inner = io.BytesIO()
    stream = io.TextIOWrapper(inner, encoding)
    everything(stream)
    Output(stream).write("λ → 0.5 ─ \udcff\n")
    stream.flush()
    last = inner.getvalue().decode(encoding).splitlines()[-1]
    assert last == ("λ → 0.5 ─ ?" if encoding == "utf-8" else "? ? 0.5 ? ?")


def test_what_commands_print_and_fail_with_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(NASTY, "next")
    assert capsys.readouterr().out == f"{SHOWN}\nnext\n"

    def body(parsed: object) -> None:
        print(NASTY)  # a table: its lines are lines
        raise RunFailed(NASTY)

    monkeypatch.setattr("plca_dist.cli.recipes.run", body)
    assert main(["recipes"]) == 1
    out, err = capsys.readouterr()
    assert err == f"plca: {SHOWN}\n"
    assert out == "a\\x1b[2Jb\\x07\\r\nplca: done\\x9b\\u2028\\u202ec\td\n"
    assert visible("plain é λ ━") == "plain é λ ━"


#: A command that shows progress, warns and prints a result, with the streams of a real process.
COMMAND = """
import logging, sys, time
from pathlib import Path
from plca_dist.cli import main, recipes
from plca_dist.terminal import Counter
if sys.argv[2:]:
    time.sleep(0.5)
def body(parsed):
    print("result λ ─", flush=True)
    with Counter("images", 1) as counter:
        counter.update(1)
    logging.getLogger("plca_dist").warning("a warning λ")
    Path("finished").write_text("finished")
    print("the end")
recipes.run = body
del sys.argv[2:]
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("redirected", "environment", "code"),
    [
        ("2>&-", {}, 0),
        (">&- 2>&-", {}, 0),
        ("2>/dev/full", {}, 0),
        (">/dev/full", {}, 1),
        ("2>&1 | true", {}, 141),
        ("2>&1 >/dev/null | true", {}, 0),
        ("", {"PYTHONIOENCODING": "latin-1"}, 0),
        ("", {"PYTHONIOENCODING": "ascii"}, 0),
        ("", {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, 0),
    ],
)
def test_a_command_is_done_whatever_becomes_of_its_output(
    redirected: str, environment: dict[str, str], code: int, tmp_path: Path
) -> None:
    (tmp_path / "command.py").write_text(COMMAND)
    script = f"set -o pipefail; {sys.executable} command.py recipes {redirected}"
    if "|" in redirected:  # the reader has left before anything is written
        script = script.replace("recipes", "recipes late")
    environment = {k: v for k, v in os.environ.items() if k not in ("LC_ALL", "LANG")} | environment
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done
    assert (tmp_path / "finished").read_text() == "finished"
    assert "Traceback" not in done.stderr
    if redirected == ">/dev/full":
        assert done.stderr.splitlines()[-1].startswith("plca: standard output: [Errno 28] No space left on device; ")
    if not redirected:
        assert done.stdout.splitlines()[-1] == "the end"
