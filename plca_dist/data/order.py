"""The sample of each slot at each step, as a pure function of (seed, domain, step).

There is no state to save or to replay. Any step is computed at once, and any number of ranks sees the same global
batch. Each slot reads its own stretch of the order, a window of row groups at a time.

Legend: N samples of a domain, B slots of the global batch, T = floor(N / B) steps an epoch, W row groups a window, R
row groups.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Protocol

import numpy as np

from plca_dist.data.dealing import deal, draw
from plca_dist.errors import UserError

#: The newest way to cut an epoch into the slots' stretches. Runs keep the one that they were begun with.
NEWEST_CUT = 2

#: Steps that a stream looks ahead, about.
_AHEAD = 16


def _bits(*key: int | str) -> np.random.Philox:
    """A bit generator that depends on `key` alone, on every machine and in every process.

    The key is hashed as text. Python's own `hash` differs from process to process, and SeedSequence joins the words of
    neighbouring integers, so that two keys could give the same bits.
    """
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return np.random.Philox(np.random.SeedSequence(int.from_bytes(digest[:16], "big")))


def permutation(n: int, *key: int | str) -> np.ndarray:
    """A permutation (n,) int64 that depends on `key` alone.

    It sorts raw 64-bit draws, because a run must resume in the same order after an upgrade of numpy. Numpy promises
    the same raw stream in all its versions, but not the same result of `Generator.permutation`.
    """
    return np.argsort(_bits(*key).random_raw(n), kind="stable")


def keyed_rng(*key: int | str) -> np.random.Generator:
    """A generator that depends on `key` alone, on every machine and in every process."""
    return np.random.Generator(_bits(*key))


def sample_rng(seed: int, domain: str, epoch: int, sample: int) -> np.random.Generator:
    """The generator for the augmentation of one sample in one epoch."""
    return keyed_rng("augment", int(seed), domain, int(epoch), int(sample))


def pair_draws(keys_P3: np.ndarray, name: str, count: int) -> np.ndarray:
    """(P, count) float32 numbers, uniform in [0, 1), for pairs of one step.

    Args:
        keys_P3: seed, step and slot of each pair. A row of the result depends on its own key, and on `name`, alone.
        name: what is drawn for; numbers of two names have nothing in common.
    """
    raw = np.stack([_bits(name, *map(int, key)).random_raw(count) for key in keys_P3])
    return (raw >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)  # 24 bits are exact in float32


def uniforms(count: int, *key: int | str) -> np.ndarray:
    """(count,) float64 numbers, uniform in [0, 1), that depend on `key` alone."""
    return (_bits(*key).random_raw(count) >> np.uint64(11)) * 2.0**-53


def slots_of_rank(batch: int, world: int, rank: int) -> range:
    """The slots of the global batch that `rank` of `world` owns: contiguous, and the same number for every rank.

    Raises UserError when the batch does not divide by the world size.
    """
    if batch % world:
        divisors = ", ".join(str(d) for d in range(1, batch + 1) if batch % d == 0)
        raise UserError(
            f"a global batch of {batch} pairs does not divide over {world} ranks; "
            f"use a world size out of {divisors}, or change batch.pairs."
        )
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} is outside 0..{world - 1}")
    share = batch // world
    return range(rank * share, (rank + 1) * share)


class _Epoch(Protocol):
    """The order of one epoch."""

    def order(self) -> np.ndarray: ...

    def stretch(self, slot: int, /) -> np.ndarray: ...


class Order:
    """The order of one domain's samples over the whole run.

    In each epoch N - B·T < B samples, drawn anew, are left out, and every other one is used once. The row groups are
    permuted and dealt out to the slots, so that each slot gets T samples out of as few groups as can be: see
    `dealing.deal`. A slot reads its samples in an order of its own, in which at most W groups are begun and not used
    up: see `dealing.draw`.

    Cut 1 is that of older runs. It permutes the row groups, joins every W neighbours into a window, and permutes the
    samples in each window; slot b reads positions b·T to (b + 1)·T - 1 of that. Where T is short, many slots lie in one
    window, and each of its groups is read by most of them.

    Args:
        row_groups: samples in each row group, in global row order.
        batch: B, slots of the global batch.
        seed: the run's seed.
        domain: "source" or "target"; the two domains are shuffled independently.
        window: W. 1 keeps the samples of a row group together; more mixes better and holds more groups in memory.
        cut: 1 or 2, how an epoch is cut into stretches.

    Raises:
        UserError: when there are fewer samples than slots.
    """

    def __init__(
        self, row_groups: Sequence[int], batch: int, seed: int, domain: str, window: int, cut: int = NEWEST_CUT
    ) -> None:
        if batch < 1 or window < 1 or min(row_groups, default=1) < 1:
            raise ValueError(f"batch {batch}, window {window} and every row group must be at least 1")
        if cut not in (1, 2):
            raise ValueError(f"cut {cut} is neither 1 nor 2")
        self.samples = sum(row_groups)
        if self.samples < batch:
            raise UserError(
                f"the {domain} dataset has {self.samples} samples, fewer than the {batch} pairs of one step; "
                f"set batch.pairs to at most {self.samples} or add data."
            )
        self.batch = batch
        self.seed = int(seed)
        self.domain = domain
        self.window = window
        self.steps_per_epoch = self.samples // batch
        self.rows = np.asarray(row_groups, np.int64)
        self.cut = cut
        # Prefetching across the end of an epoch needs two orders, more where epochs are short; one is for a look back.
        self._epoch = lru_cache(maxsize=3 + _AHEAD // self.steps_per_epoch)(self._make)

    def epoch_order(self, epoch: int) -> np.ndarray:
        """The global row indices (N,) int64 of one epoch, slot after slot, then those that are left out; read-only."""
        return self._epoch(epoch).order()

    def sample(self, step: int, slot: int) -> int:
        """The global row index that `slot` reads at `step`."""
        if step < 0 or not 0 <= slot < self.batch:
            raise IndexError(f"step {step}, slot {slot}: steps start at 0 and slots are 0..{self.batch - 1}")
        epoch, within = divmod(step, self.steps_per_epoch)
        return int(self.stretch(epoch, slot)[within])

    def stretch(self, epoch: int, slot: int) -> np.ndarray:
        """The global row indices (T,) int64 that `slot` reads in `epoch`, step after step; read-only."""
        return self._epoch(epoch).stretch(slot)

    def wanted(self, step: int, slot: int) -> int | None:
        """The class that the slot's sample was drawn for; None where samples are not drawn by classes."""
        return None

    def rng(self, step: int, slot: int, sample: int) -> np.random.Generator:
        """The generator for the augmentation of `sample`, which `slot` reads at `step`."""
        return sample_rng(self.seed, self.domain, step // self.steps_per_epoch, sample)

    def _make(self, epoch: int) -> _Epoch:
        return _Windows(self, epoch) if self.cut == 1 else _Deal(self, epoch)

    def key(self, what: str, epoch: int, *more: int) -> tuple[int | str, ...]:
        """The key of one of the random numbers of an epoch."""
        return (what, self.seed, self.domain, epoch, *more)


class _Windows:
    """Cut 1."""

    def __init__(self, of: Order, epoch: int) -> None:
        self._steps = of.steps_per_epoch
        first = np.cumsum(of.rows) - of.rows
        groups = permutation(len(of.rows), *of.key("groups", epoch))
        windows = []
        for start in range(0, len(groups), of.window):
            rows = np.concatenate(
                [np.arange(first[g], first[g] + of.rows[g]) for g in groups[start : start + of.window]]
            )
            windows.append(rows[permutation(len(rows), *of.key("window", epoch, start))])
        self._order = _read_only(np.concatenate(windows))

    def order(self) -> np.ndarray:
        return self._order

    def stretch(self, slot: int) -> np.ndarray:
        return self._order[slot * self._steps : (slot + 1) * self._steps]


class _Deal:
    """Cut 2. A stretch is made when it is asked for: a rank has no need of the other ranks'."""

    def __init__(self, of: Order, epoch: int) -> None:
        self._of, self._number = of, epoch
        groups = permutation(len(of.rows), *of.key("groups", epoch))
        place = np.empty_like(groups)  # (R,) of each row group in the permuted sequence
        place[groups] = np.arange(len(groups))
        rows = permutation(of.samples, *of.key("rows", epoch))
        used = of.batch * of.steps_per_epoch
        places = np.repeat(place, of.rows)[rows[:used]]
        self._left_out = rows[used:]
        self._rows = rows[:used][np.argsort(places, kind="stable")]
        sizes = np.bincount(places, minlength=len(groups))
        self._first = (np.cumsum(sizes) - sizes).tolist()
        self._shares = deal(sizes.tolist(), of.batch, of.steps_per_epoch)
        self.stretch = cache(self._stretch)

    def order(self) -> np.ndarray:
        slots = [self.stretch(slot) for slot in range(self._of.batch)]
        return _read_only(np.concatenate([*slots, self._left_out]))

    def _stretch(self, slot: int) -> np.ndarray:
        share, key = self._shares[slot], (self._number, slot)
        # Groups that a neighbour reads too come first there as well: a rank with both slots fetches them once.
        whole = [share.whole[k] for k in permutation(len(share.whole), *self._of.key("whole", *key))]
        rows = [
            self._rows[self._first[group] + start : self._first[group] + stop].tolist()
            for group, start, stop in (*share.shared, *whole)
        ]
        bits = _bits(*self._of.key("draw", *key)).random_raw(self._of.steps_per_epoch).tolist()
        return _read_only(np.array(draw(rows, self._of.window, bits), np.int64))


def _read_only(rows: np.ndarray) -> np.ndarray:
    rows.flags.writeable = False
    return rows
