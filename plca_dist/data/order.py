"""The sample of each slot at each step, as a pure function of (seed, domain, step).

There is no state to save or to replay. Any step is computed at once, and any number of ranks sees the same global
batch. Each slot reads its own stretch of the order, a window of row groups at a time.

Legend: N samples of a domain, B slots of the global batch, T = floor(N / B) steps an epoch, W row groups a window.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from plca_dist.errors import UserError


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


class Order:
    """The order of one domain's samples over the whole run.

    In each epoch the row groups are permuted, every W neighbours of that sequence are joined into a window, and the
    samples are permuted inside each window. Slot b at step t reads position b·T + (t mod T) of epoch floor(t / T). So
    a slot reads T neighbouring positions, and only the row groups that these lie in. Every sample is used at most once
    an epoch. The N - B·T < B samples at the end of the order are left out; they differ from epoch to epoch.

    Args:
        row_groups: samples in each row group, in global row order.
        batch: B, slots of the global batch.
        seed: the run's seed.
        domain: "source" or "target"; the two domains are shuffled independently.
        window: W. 1 keeps the samples of a row group together; more mixes better and holds more groups in memory.

    Raises:
        UserError: when there are fewer samples than slots.
    """

    def __init__(self, row_groups: Sequence[int], batch: int, seed: int, domain: str, window: int) -> None:
        if batch < 1 or window < 1 or min(row_groups, default=1) < 1:
            raise ValueError(f"batch {batch}, window {window} and every row group must be at least 1")
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
        self._rows = np.asarray(row_groups, np.int64)
        self._first = np.cumsum(self._rows) - self._rows
        # Prefetching across the end of an epoch needs two orders; the third is for a look back.
        self._cached = lru_cache(maxsize=3)(self._make)

    def epoch_order(self, epoch: int) -> np.ndarray:
        """The global row indices (N,) int64 of one epoch in reading order; read-only."""
        return self._cached(epoch)

    def sample(self, step: int, slot: int) -> int:
        """The global row index that `slot` reads at `step`."""
        if step < 0 or not 0 <= slot < self.batch:
            raise IndexError(f"step {step}, slot {slot}: steps start at 0 and slots are 0..{self.batch - 1}")
        epoch, within = divmod(step, self.steps_per_epoch)
        return int(self.stretch(epoch, slot)[within])

    def stretch(self, epoch: int, slot: int) -> np.ndarray:
        """The global row indices (T,) that `slot` reads in `epoch`, step after step; read-only."""
        return self.epoch_order(epoch)[slot * self.steps_per_epoch : (slot + 1) * self.steps_per_epoch]

    def window_bounds(self, epoch: int) -> np.ndarray:
        """Where each window of `epoch_order` begins, and last where it ends."""
        groups = permutation(len(self._rows), "groups", self.seed, self.domain, epoch)
        sizes = np.add.reduceat(self._rows[groups], np.arange(0, len(groups), self.window))
        return np.concatenate([[0], np.cumsum(sizes)])

    def wanted(self, step: int, slot: int) -> int | None:
        """The class that the slot's sample was drawn for; None where samples are not drawn by classes."""
        return None

    def rng(self, step: int, slot: int, sample: int) -> np.random.Generator:
        """The generator for the augmentation of `sample`, which `slot` reads at `step`."""
        return sample_rng(self.seed, self.domain, step // self.steps_per_epoch, sample)

    def _make(self, epoch: int) -> np.ndarray:
        groups = permutation(len(self._rows), "groups", self.seed, self.domain, epoch)
        windows = []
        for start in range(0, len(groups), self.window):
            rows = np.concatenate(
                [np.arange(self._first[g], self._first[g] + self._rows[g]) for g in groups[start : start + self.window]]
            )
            windows.append(rows[permutation(len(rows), "window", self.seed, self.domain, epoch, start)])
        order = np.concatenate(windows)
        order.flags.writeable = False
        return order
