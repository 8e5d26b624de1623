"""`plca shards`."""

import os
import textwrap
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plca_dist.cli.options import Commands, add_command, add_endpoint, add_size, at_least
from plca_dist.errors import UserError
from plca_dist.output import say

if TYPE_CHECKING:
    from plca_dist.run.lease import Lease
    from plca_dist.storage import Store


IMAGES = "images/**/*"
_OF_FOLDER = ("images", "label_files", "list")


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "shards",
        run,
        "turn a data set into Parquet shards and a manifest",
        """
plca shards toytown --out data/toytown
plca shards gta5 --root GTA5 --out s3://bucket/shards/gta5
plca shards cityscapes --root cityscapes --split train --no-labels --out s3://bucket/shards/cityscapes_train
plca shards cityscapes --root cityscapes --split val --out s3://bucket/shards/cityscapes_val
plca shards folder --root photos --no-labels --out data/photos
plca shards folder --root mine --labels my_classes.yaml --out data/mine --skip-broken
plca shards folder --root idd20k_lite --labels idd_lite.yaml --out data/idd \\
    --images 'leftImg8bit/train/*/*_image.jpg' --label-files 'gtFine/train/*/*_label.png'
plca shards --verify s3://bucket/shards/gta5""",
        """Write shards of the domain to adapt to with --no-labels. The same call again continues where an interrupted
        one stopped. The manifest is written last; shards without one are no data set. --verify reads finished shards
        and compares every byte with the manifest.""",
    )
    parser.more = _layouts
    parser.add_argument("dataset", metavar="DATASET", nargs="?", help="one of those below")
    parser.add_argument("--root", metavar="DIR", help="the data set's own folder")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--out", metavar="URI", help="where the shards go")
    place.add_argument("--verify", metavar="URI", help="finished shards to compare with their manifest")
    parser.add_argument("--split", help="train, val or test, where the data set has them")
    parser.add_argument("--labels", metavar="SET", help="folder: label set or coding of its labels, or a .yaml of one")
    parser.add_argument("--images", metavar="PATTERN", help=f"folder: paths of images (default: {IMAGES})")
    parser.add_argument(
        "--label-files",
        metavar="PATTERN",
        help="folder: paths of their labels, each * for the same text as in --images",
    )
    parser.add_argument(
        "--list", metavar="FILE", help="folder: text or CSV with the images, or images and labels, to take"
    )
    parser.add_argument("--no-labels", action="store_true", help="leave labels out: shards for a training target")
    add_size(parser, "toytown: size of the scenes")
    parser.add_argument("--count", type=at_least(1), metavar="N", help="toytown: scenes of each training set")
    parser.add_argument(
        "--seed", type=at_least(0), default=0, metavar="N", help="seed of the order of rows, and of toytown's scenes"
    )
    parser.add_argument("--skip-broken", action="store_true", help="leave unreadable images out and list them")
    parser.add_argument("--overwrite", action="store_true", help="replace other shards in the same place")
    parser.add_argument("--workers", type=at_least(1), metavar="N", help="threads (default: one a core)")
    add_endpoint(parser)


def _layouts() -> str:
    from plca_dist.data.datasets.layouts import DATASETS

    layouts = {name: known.layout for name, known in DATASETS.items()}
    layouts["toytown"] = "nothing: street scenes are drawn, into OUT/source, OUT/target (without labels) and OUT/val."
    rows = (
        textwrap.fill(layout, 98, initial_indent=f"  {name:11s} ", subsequent_indent=" " * 14)
        for name, layout in layouts.items()
    )
    return "\ndata sets, and what is expected below --root:\n" + "\n".join(rows) + "\n"


def run(parsed: Namespace) -> None:
    from plca_dist.data.prepare import TOYTOWN_COUNT, prepare, prepare_toytown
    from plca_dist.storage import Location, probe
    from plca_dist.terminal import Counters

    _check(parsed)
    workers = parsed.workers or os.cpu_count() or 1
    if parsed.verify:
        _verify(probe(Location(parsed.verify, parsed.endpoint)), workers)
        return
    out = probe(Location(parsed.out, parsed.endpoint))
    with Counters() as counters:
        if parsed.dataset == "toytown":
            manifests = prepare_toytown(
                out,
                seed=parsed.seed,
                size=tuple(parsed.size) if parsed.size else (96, 192),
                count=parsed.count or TOYTOWN_COUNT,
                overwrite=parsed.overwrite,
                workers=workers,
                claim=_claim,
                progress=counters.show,
            )
        else:
            manifest = prepare(
                parsed.dataset,
                out,
                root=Path(parsed.root).expanduser() if parsed.root else None,
                split=parsed.split,
                labels=parsed.labels,
                images=parsed.images,
                label_files=parsed.label_files,
                list_file=Path(parsed.list).expanduser() if parsed.list else None,
                with_labels=not parsed.no_labels,
                seed=parsed.seed,
                skip_broken=parsed.skip_broken,
                overwrite=parsed.overwrite,
                workers=workers,
                claim=_claim,
                progress=counters.show,
            )
            manifests = {"": manifest}
    for name, manifest in manifests.items():
        say(
            f"{out.child(name).uri if name else out.uri}: {manifest.summary()}",
            *(f"  {line}" for line in manifest.contents()),
        )


def _verify(shards: "Store", workers: int) -> None:
    from plca_dist.data.shards.verify import verify
    from plca_dist.terminal import Counters

    with Counters() as counters:
        manifest = verify(
            shards, workers=workers, progress=lambda done, total: counters.show("shards verified", done, total)
        )
    print(f"{shards.uri}: every byte as written: {manifest.summary()}")


def _claim(shards: "Store") -> "Lease":
    """The lease on a shard directory. Raises UserError where another command writes there."""
    from plca_dist.run.lease import Lease, LeaseHeld

    try:
        return Lease.acquire(shards)
    except LeaseHeld as error:
        raise UserError(f"another `plca shards` writes there: {error}") from error


def _check(parsed: Namespace) -> None:
    """Raises UserError for options that the data set does not have, and for those that are missing.

    Another name than those of data sets is left to `prepare`.
    """
    from plca_dist.data.datasets.layouts import DATASETS

    if parsed.verify:
        if parsed.dataset:
            raise UserError(f"--verify reads shards and writes none; leave out {parsed.dataset!r}.")
        return
    if not parsed.dataset:
        raise UserError(f"give the data set that --out is for: {', '.join(DATASETS)}.")
    if parsed.dataset == "toytown":
        _refuse(parsed, ("root", "split", "labels", "no_labels", "skip_broken", *_OF_FOLDER))
    elif parsed.dataset in DATASETS:
        _refuse(parsed, ("size", "count", *(() if parsed.dataset == "folder" else _OF_FOLDER)))
        if parsed.root is None:
            raise UserError(f"{parsed.dataset}: give its folder with --root: {DATASETS[parsed.dataset].layout}")
        if parsed.labels and parsed.no_labels:
            raise UserError("--labels and --no-labels contradict each other; give one of them.")


def _refuse(parsed: Namespace, options: Sequence[str]) -> None:
    for option in options:
        if getattr(parsed, option):
            raise UserError(f"{parsed.dataset} takes no --{option.replace('_', '-')}.")
