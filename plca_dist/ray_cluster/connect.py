"""Reaching a Ray cluster, or starting one on this machine, without its chatter."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import ray

from plca_dist.config import ClusterSettings
from plca_dist.errors import UserError, first_line
from plca_dist.ray_cluster.internals import core
from plca_dist.ray_cluster.local import QUIET, local_cluster

#: For every worker process. The import of DeepSpeed compiles an optimizer that nobody uses, unless dynamo is off.
#: OpenMP's threads spin while they wait, and starve other work on the same cores.
_EVERYWHERE = {"TORCHDYNAMO_DISABLE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
#: Ray hides no GPU from a worker that asks for none. DeepSpeed would take the first one that it sees.
_WITHOUT_GPU = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}


def worker_environment(gpu: bool) -> dict[str, str]:
    """Variables of every worker process, which has a GPU or is to see none."""
    return _EVERYWHERE if gpu else _EVERYWHERE | _WITHOUT_GPU


@contextmanager
def connection(wanted: ClusterSettings, say: Callable[[str], None]) -> Iterator[None]:
    """Be connected to Ray inside the block: to the session that exists, to RAY_ADDRESS, or to one started here.

    A cluster started here ends with the block. `say` gets lines for the person watching.

    Raises UserError where this machine cannot hold the workers, or nothing answers at RAY_ADDRESS.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    cluster = ExitStack()
    with _own_signals() as set_again:
        try:
            if address:
                cluster.callback(ray.shutdown)
                _join(address)
            else:
                say("starting a Ray cluster on this machine")
                with _signals_held_back():
                    cluster.enter_context(local_cluster(wanted))
            core.quieten_driver()
            set_again()
            yield
        finally:
            with _signals_held_back():
                cluster.close()


def _join(address: str) -> None:
    host, _, port = address.rpartition(":")
    said: list[str] = []
    try:
        if host and port.isdigit() and "/" not in host:
            # Ray itself would keep trying an address where nobody listens, for minutes and without a word.
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        with core.native_lines(said):
            ray.init(address=address, **QUIET)
    except ray.exceptions.AuthenticationError as error:
        raise _no_token(address) from error
    except (OSError, ValueError, RuntimeError) as error:  # no answer, no address, another version of ray
        if any("InvalidAuthToken" in line for line in said):
            raise _no_token(address) from error
        raise UserError(
            f"RAY_ADDRESS={address}: cannot join a Ray cluster there ({first_line(error)}); "
            "correct it, or unset it to start a cluster on this machine."
        ) from error


def _no_token(address: str) -> UserError:
    return UserError(
        f"RAY_ADDRESS={address}: the Ray cluster there wants its token, and this is not it or there is none; set "
        "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's."
    )


def not_ignored(number: int) -> bool:
    return signal.getsignal(number) is not signal.SIG_IGN


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Signals wait for the end of the block: Ray leaves processes behind if it is interrupted at its start or stop.

    What is started inside never gets SIGHUP: a terminal that goes ends the command, which needs its cluster until then.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)
    before = {
        number: signal.signal(number, lambda got, frame: came.append(got)) for number in numbers if not_ignored(number)
    }
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in came:
        signal.raise_signal(number)


@contextmanager
def _own_signals() -> Iterator[Callable[[], None]]:
    """Inside the block the former handlers of SIGTERM and SIGHUP stay; where there was none, both are a Ctrl-C.

    Whenever Ray starts, it sets a handler of SIGTERM of its own, which aborts with a dump of the stack and leaves Ray's
    processes behind. The function that is yielded puts the right handlers back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGTERM, signal.SIGHUP)}

    def set_again() -> None:
        for number, handler in before.items():
            if handler != signal.SIG_IGN:
                ours = handler if callable(handler) else lambda number, frame: signal.raise_signal(signal.SIGINT)
                signal.signal(number, ours)

    set_again()
    try:
        yield set_again
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
