"""Data sets of a whole recipe as shards in a store, for `plca shards toytown` and `plca demo`."""

from functools import partial
from pathlib import Path

from plca_dist.data.datasets.layouts import open_dataset
from plca_dist.data.shards import Manifest, write_shards
from plca_dist.data.shards.writer import Claiming, unclaimed
from plca_dist.messages import Progress
from plca_dist.storage import Store

#: Scenes in each training set of toytown; a demo sees each a few times. A quarter as many are for evaluation.
TOYTOWN_COUNT = 480
#: Added to the seed of validation scenes, which are the target's: training does not use such seeds.
_VALIDATION_SEED = 1_000_000


def prepare_toytown(
    out: Store,
    *,
    seed: int = 0,
    size: tuple[int, int] = (96, 192),
    count: int = TOYTOWN_COUNT,
    overwrite: bool = False,
    workers: int = 1,
    claim: Claiming = unclaimed,
    progress: Progress,
) -> dict[str, Manifest]:
    """Draw toytown: `source` with labels, `target` without, and `val` (target scenes with labels) below `out`."""
    plan = {
        "source": ("source", count, seed, True),
        "target": ("target", count, seed, False),
        "val": ("target", max(count // 4, 1), seed + _VALIDATION_SEED, True),
    }
    readers = {
        name: open_dataset("toytown", None, domain, with_labels=labelled, count=scenes, seed=drawn_from, size=size)
        for name, (domain, scenes, drawn_from, labelled) in plan.items()
    }
    return {
        name: write_shards(
            reader,
            out.child(name),
            with_labels=plan[name][3],
            seed=seed,
            workers=workers,
            overwrite=overwrite,
            claim=claim,
            progress=partial(progress, f"toytown {name}"),
        )
        for name, reader in readers.items()
    }


def prepare_pair(
    out: Store,
    source: tuple[str, Path],
    target: tuple[str, Path],
    *,
    workers: int = 1,
    claim: Claiming = unclaimed,
    progress: Progress,
) -> None:
    """Below `out`: SOURCE with labels, TARGET_train without, and TARGET_val with labels.

    `source` and `target` are data sets with the splits "train" and "val", and the directories that they lie in.

    Raises UserError as `open_dataset` and `write_shards` do.
    """
    plan = {
        source[0]: (*source, "train", True),
        f"{target[0]}_train": (*target, "train", False),
        f"{target[0]}_val": (*target, "val", True),
    }
    readers = {
        name: open_dataset(dataset, root, split, with_labels=labelled)
        for name, (dataset, root, split, labelled) in plan.items()
    }
    for name, reader in readers.items():
        write_shards(
            reader,
            out.child(name),
            with_labels=plan[name][3],
            workers=workers,
            claim=claim,
            progress=partial(progress, name),
        )
