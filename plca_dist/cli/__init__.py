"""`plca …`: one file a command, which parses, calls one function and prints. No logic lives here."""

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from plca_dist.cli.parser import build_parser
from plca_dist.errors import RunFailed, RunPreempted, UserError

# Read by OpenMP when torch is imported, which is later. Its threads spin while they wait; on a machine that does other
# work too, that made an evaluation with two threads ten times slower than with one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 bad input, 85 preempted, 130 interrupted."""
    code = _answer(arguments)
    if arguments is None and "ray" in sys.modules:
        # Ray's threads may outlive its shutdown, and the interpreter's teardown under them has crashed after a Ctrl-C.
        with suppress(BrokenPipeError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    return code


def _answer(arguments: Sequence[str] | None) -> int:
    parsed = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="plca: warning: %(message)s")
    try:
        code: int = parsed.body(parsed) or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        return _fail(error, 2)
    except RunFailed as error:
        return _fail(error, 1)
    except RunPreempted as error:
        return _fail(error, 85)
    except KeyboardInterrupt as error:
        return _fail(f"interrupted; {error}" if error.args else "interrupted", 130)
    except BrokenPipeError:  # the reader left early, as `head` does in `plca recipes | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.filename is None:  # a fault of this program, not of a file that somebody named
            return _unexpected(error)
        return _fail(f"{error.filename}: {error.strerror}.", 2)
    except Exception as error:
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    from plca_dist.cli.unexpected import explained

    return _fail(explained(error), 1)


def _fail(message: object, code: int) -> int:
    print(f"plca: {message}", file=sys.stderr)
    return code
