"""`plca …`: one file a command, which parses, calls one function and prints. No logic lives here."""

import logging
import os
import sys
from collections.abc import Sequence

from plca_dist import output
from plca_dist.cli.parser import build_parser
from plca_dist.errors import RunFailed, RunPreempted, UserError, first_line
from plca_dist.output import Output, visible

# Read by OpenMP when torch is imported, which is later. Its threads spin while they wait; on a machine that does other
# work too, that made an evaluation with two threads ten times slower than with one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 bad input, 85 preempted, 130 interrupted.

    141: done, but who read standard output had left.
    """
    if arguments is None:
        output.fill_closed()
    undo = output.guard()
    try:
        code = _code(_answer(arguments), Output.of(sys.stdout))
        Output.of(sys.stderr).end()
        if arguments is None and "ray" in sys.modules:
            # Ray's threads may outlive its shutdown, and the interpreter's teardown under them has crashed after a
            # Ctrl-C.
            os._exit(code)
        return code
    finally:
        if arguments is not None:  # what ends a process is shown by the same rules
            undo()


def _answer(arguments: Sequence[str] | None) -> int:
    parsed = build_parser().parse_args(arguments)
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("plca: warning: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    try:
        code: int = parsed.body(parsed) or 0
        return code
    except UserError as error:
        return _fail(error, 2)
    except RunFailed as error:
        return _fail(error, 1)
    except RunPreempted as error:
        return _fail(error, 85)
    except KeyboardInterrupt as error:
        return _fail(f"interrupted; {error}" if error.args else "interrupted", 130)
    except OSError as error:
        if error.filename is None:  # a fault of this program, not of a file that somebody named
            return _unexpected(error)
        return _fail(f"{error.filename}: {error.strerror}.", 2)
    except Exception as error:
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    from plca_dist.cli.unexpected import explained

    return _fail(explained(error), 1)


def _code(code: int, out: Output) -> int:
    """The exit code, where standard output may have failed a command that is done."""
    out.end()
    if code or out.error is None:
        return code
    if isinstance(out.error, BrokenPipeError):  # the reader left early, as `head` does in `plca recipes | head`
        return 141
    return _fail(f"standard output: {first_line(out.error)}; the command is done, what it printed is lost.", 1)


class _OneLine(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  its name in logging
        return visible(super().formatMessage(record))


def _fail(message: object, code: int) -> int:
    print(f"plca: {visible(str(message))}", file=sys.stderr)
    return code
