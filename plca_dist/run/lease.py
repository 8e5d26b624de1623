"""One writer per run: a lease on the run's directory, so that a former driver that still lives cannot write too.

The objects `lease/00000001.json`, `lease/00000002.json`, … are generations, and each is created only once. The creator
of the newest one holds the lease, and renews it by changing that object. Another launch watches the newest generation
by its own monotonic clock: if nothing changes for a lease's life, it may create the next. No two machines' clocks are
ever compared.

A holder that was taken for dead may wake up later. Its store asks before every change whether there is a newer
generation (`guarded`), and raises LeaseLost then. It may have fallen asleep between the answer and the change; that one
change cannot be kept from happening. So all names that it may write to carry its generation, or are created once.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from plca_dist.errors import LeaseLost, RunFailed, UserError
from plca_dist.polling import start_polling
from plca_dist.run.generations import (
    Watch,
    clear_unfinished,
    holder_of,
    name_of,
    new_claim,
    newest_generation,
    read_generation,
    record_of,
    sweep_before,
)
from plca_dist.storage import Store, prove_created_once

log = logging.getLogger(__name__)

#: Seconds that a lease lives without being renewed; it is renewed four times in that time.
TTL_S = 8.0


class LeaseHeld(UserError):
    """Another launch holds the lease, and renews it."""


class Lease:
    """The right to write to a run, renewed by a thread until it is released or lost. A context manager.

    Attributes:
        generation: its number; higher ones fence lower ones.
        store: the run's, which refuses every change once the lease is lost.
    """

    @classmethod
    def acquire(cls, store: Store, *, ttl: float = TTL_S, say: Callable[[str], None] = log.warning) -> "Lease":
        """Take the lease on the run in `store`.

        A lease that another launch holds is watched for `ttl` seconds. It is taken over if it is released, or not
        renewed in that time.

        Args:
            say: gets one line on the launch that is being waited for.

        Raises:
            LeaseHeld: when another launch holds the lease and renews it.
            UserError: when the store does not keep a second writer from creating the same object.
        """
        watch = Watch(ttl)
        while True:
            newest = newest_generation(store)
            content = read_generation(store, newest) if newest else b""
            if not newest or watch.expired(newest, content) or record_of(content).get("released"):
                mine = new_claim()
                name, data = name_of(newest + 1), json.dumps(mine).encode()
                if store.create(name, data) and not fenced(store, newest + 1):
                    prove_created_once(store, name, data)
                    lease = cls(store, newest + 1, mine, ttl)
                    try:
                        lease._tidy()  # which may take longer than a lease lives
                    except BaseException:
                        lease.release()
                        raise
                    return lease
                watch = Watch(ttl)  # another launch was quicker: its lease is a new one
                continue
            if watch.alive():
                raise LeaseHeld(
                    f"{store.uri} is being written by {holder_of(content)}: one run has one writer; "
                    "wait for it to end, end it, or start under another name."
                )
            if watch.is_first():
                say(f"{store.uri} was last written by {holder_of(content)}; waiting {ttl:.0f} s for a sign of life")
            time.sleep(ttl / 16)

    def __init__(self, store: Store, generation: int, claim: dict[str, Any], ttl: float) -> None:
        self.generation = generation
        self.store = replace(store, guard=self.require)
        self._store, self._claim, self._ttl = store, claim, ttl
        self._lost, self._end = threading.Event(), threading.Event()
        self._renewals = 0
        self._writing = threading.RLock()  # the generation is as in the store while it is held
        self._thread = start_polling("lease", ttl / 4, self._renew, until=self._end.is_set, pause=self._end.wait)

    @property
    def lost(self) -> bool:
        """Whether another launch has taken the lease over: this one must stop and write nothing."""
        return self._lost.is_set()

    def require(self) -> None:
        """Look at the store now. Raises LeaseLost where another launch has taken the lease over."""
        with self._writing:
            if not self.lost and fenced(self._store, self.generation):
                self._lose()
        if self.lost:
            raise LeaseLost(_lost(self._store))

    def advance(self) -> int:
        """Take the next generation, so that whatever still writes under this one is fenced. Returns its number.

        Raises LeaseLost where another launch has taken the lease over.
        """
        with self._writing:
            self.require()
            claim = new_claim()
            if not self._store.create(name_of(self.generation + 1), json.dumps(claim).encode()):
                self._lose()
                self.require()
            self._claim, self.generation = claim, self.generation + 1
        self._tidy()
        return self.generation

    def release(self) -> None:
        """Let the next launch have the lease at once. On a lease that is released or lost already it does nothing."""
        if self._end.is_set():
            return
        self._end.set()
        self._thread.join(self._ttl)
        if not self.lost:
            self._write(released=True)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _tidy(self) -> None:
        """Remove what earlier holders have left."""
        sweep_before(self._store, self.generation)
        clear_unfinished(self._store)

    def _renew(self) -> None:
        self._renewals += 1
        self._write(beat=self._renewals)

    def _write(self, **news: Any) -> None:
        try:
            with self._writing:
                if fenced(self._store, self.generation) or not self._own():
                    self._lose()
                else:
                    self._store.write(name_of(self.generation), json.dumps(self._claim | news).encode())
        except UserError as error:
            # Another launch would need the same store to take over; the guard before each change decides.
            log.warning("the lease on the run could not be renewed: %s", error)

    def _own(self) -> bool:
        """Whether the object of this generation is the one that was created here, as far as it can be read."""
        return record_of(self._store.read(name_of(self.generation))).get("token") in (None, self._claim["token"])

    def _lose(self) -> None:
        self._lost.set()
        self._end.set()


@contextmanager
def naming_the_loss(lease: Lease) -> Iterator[None]:
    """Whatever goes wrong in the block once another launch has taken over, the takeover is the reason for it."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        try:
            lease.require()
        except LeaseLost as lost:
            raise RunFailed(str(lost)) from error
        except UserError:  # the store is away: the error itself says more
            pass
        raise


def fenced(store: Store, generation: int) -> bool:
    """Whether a newer generation of the lease exists: the holder of this one has lost it."""
    return newest_generation(store) > generation


def guarded(store: Store, generation: int) -> Store:
    """The same store, for a worker: it refuses every change with LeaseLost once `generation` is fenced."""

    def require() -> None:
        if fenced(store, generation):
            raise LeaseLost(_lost(store))

    return replace(store, guard=require)


def _lost(store: Store) -> str:
    return f"another launch has taken {store.uri} over; this one stops, and what the other writes is untouched"
