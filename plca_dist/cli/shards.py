"""`plca shards`."""

import os
import textwrap
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plca_dist.cli.options import Commands, add_command, add_endpoint, add_size, at_least
from plca_dist.data.datasets.pattern import IMAGES
from plca_dist.data.forms import FORMS, KEEP, Encoding
from plca_dist.errors import UserError
from plca_dist.output import say

if TYPE_CHECKING:
    from plca_dist.data.datasets.dataset import Reader
    from plca_dist.data.shards import Manifest
    from plca_dist.data.shards.statistics import Statistics
    from plca_dist.messages import Progress
    from plca_dist.run.lease import Lease
    from plca_dist.storage import Store


_ENCODING = ("encode", "max_edge")
_OF_FOLDER = ("images", "label_files", "list")
_OF_FILES = ("root", "split", "labels", "no_labels", "encode", "max_edge", "skip_broken", "preview", *_OF_FOLDER)
_OF_WRITING = ("dataset", "out", "size", "count", "overwrite", *_OF_FILES)


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
plca shards folder --root idd --labels idd.yaml --images 'img/*/*_x.jpg' --label-files 'gt/*/*_y.png' --out data/idd
plca shards folder --root mine --labels my_classes.yaml --preview mine.html
plca shards gta5 --root GTA5 --out data/gta5 --encode tiff-zstd
plca shards --verify s3://bucket/shards/gta5""",
        """Write shards of the domain to adapt to with --no-labels. The same call again continues where an interrupted
        one stopped. The manifest is written last; shards without one are no data set. --preview writes a page of a
        few images with their labels, which is worth a look before anything else. --verify reads finished shards and
        compares every byte with the manifest.""",
    )
    parser.more = _layouts
    parser.add_argument("dataset", metavar="DATASET", nargs="?", help="one of those below")
    parser.add_argument("--root", metavar="DIR", help="the data set's own folder")
    parser.add_argument("--out", metavar="URI", help="where the shards go")
    parser.add_argument(
        "--preview", metavar="HTML", help="a page to write: a few images, their labels, shares; needs no --out"
    )
    parser.add_argument("--verify", metavar="URI", help="finished shards to compare with their manifest")
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
    parser.add_argument(
        "--encode",
        choices=FORMS,
        metavar="FORM",
        help=f"form of the images: {', '.join(FORMS)} (default: keep, the files as they came)",
    )
    parser.add_argument(
        "--max-edge", type=at_least(1), metavar="N", help="with --encode: make longer images smaller, to N pixels"
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
        textwrap.fill(layout, 98, initial_indent=f"  {name:16s} ", subsequent_indent=" " * 19)
        for name, layout in layouts.items()
    )
    return "\ndata sets, and what is expected below --root:\n" + "\n".join(rows) + "\n"


def run(parsed: Namespace) -> None:
    from plca_dist.storage import Location, probe

    _check(parsed)
    workers = parsed.workers or os.cpu_count() or 1
    if parsed.verify:
        _verify(probe(Location(parsed.verify, parsed.endpoint)), workers)
        return
    out = probe(Location(parsed.out, parsed.endpoint)) if parsed.out else None
    manifests, page = _toytown(parsed, out, workers) if parsed.dataset == "toytown" else _of_files(parsed, out, workers)
    for place, manifest in manifests.items():
        say(f"{place}: {manifest.summary()}", *(f"  {line}" for line in manifest.contents()))
    if page:
        say(f"preview: {page}")


def _toytown(parsed: Namespace, out: "Store | None", workers: int) -> "tuple[dict[str, Manifest], None]":
    from plca_dist.data.prepare import TOYTOWN_COUNT, prepare_toytown
    from plca_dist.terminal import Counters

    assert out
    with Counters() as counters:
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
    return {out.child(name).uri: manifest for name, manifest in manifests.items()}, None


def _of_files(parsed: Namespace, out: "Store | None", workers: int) -> "tuple[dict[str, Manifest], str]":
    """The manifest, where shards are written, and the URI of the preview, where there is one."""
    from plca_dist.data.datasets.layouts import open_dataset
    from plca_dist.data.shards import write_shards
    from plca_dist.terminal import Counters

    reader = open_dataset(
        parsed.dataset,
        Path(parsed.root).expanduser() if parsed.root else None,
        parsed.split,
        with_labels=not parsed.no_labels,
        label_set=parsed.labels,
        images=parsed.images,
        label_files=parsed.label_files,
        list_file=Path(parsed.list).expanduser() if parsed.list else None,
    )
    manifests = {}
    statistics, page = None, ""
    with Counters() as counters:
        if out:
            manifest = write_shards(
                reader,
                out,
                with_labels=not parsed.no_labels,
                seed=parsed.seed,
                encoding=Encoding(parsed.encode or KEEP, parsed.max_edge),
                skip_broken=parsed.skip_broken,
                overwrite=parsed.overwrite,
                workers=workers,
                claim=_claim,
                progress=lambda done, total: counters.show(reader.dataset, done, total),
            )
            manifests[out.uri], statistics = manifest, manifest.statistics
        if parsed.preview:
            page = _preview(reader, statistics, parsed, counters.show)
    return manifests, page


def _preview(reader: "Reader", statistics: "Statistics | None", parsed: Namespace, progress: "Progress") -> str:
    from plca_dist.report.preview import preview
    from plca_dist.storage import Location, file_at

    store, name = file_at(Location(parsed.preview, parsed.endpoint))
    store.write(
        name,
        preview(
            f"{parsed.dataset}: {parsed.root}", reader, statistics, progress, skip_broken=parsed.skip_broken
        ).encode(),
    )
    return f"{store.uri}/{name}"


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

    Another name than those of data sets is left to `open_dataset`.
    """
    from plca_dist.data.datasets.layouts import DATASETS

    if parsed.verify:
        given = next((option for option in _OF_WRITING if getattr(parsed, option)), None)
        if given:
            shown = parsed.dataset if given == "dataset" else f"--{given.replace('_', '-')}"
            raise UserError(f"--verify reads shards and writes none; leave out {shown!r}.")
        return
    if (parsed.encode or parsed.max_edge) and not parsed.out:
        raise UserError("--encode and --max-edge are about shards; give --out for them.")
    Encoding(parsed.encode or KEEP, parsed.max_edge)
    if not parsed.out and not parsed.preview:
        raise UserError("give --out for the shards, --preview for a page about the data set, or --verify.")
    if not parsed.dataset:
        raise UserError(f"give the data set that --out is for: {', '.join(DATASETS)}.")
    if parsed.preview and not parsed.preview.endswith((".html", ".htm")):
        raise UserError(f"--preview {parsed.preview}: give the name of an .html file.")
    if parsed.dataset == "toytown":
        _refuse(parsed, _OF_FILES)
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
