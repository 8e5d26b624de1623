"""What `plca shards`, `recipes` and `doctor` take."""

import argparse
import textwrap

from plca_dist.cli.command import ENDPOINT, Command, add_command, add_size, at_least


def shards(commands: "argparse._SubParsersAction[Command]") -> None:
    parser = add_command(
        commands,
        "shards",
        "turn a data set into Parquet shards and a manifest",
        """
plca shards toytown --out data/toytown
plca shards gta5 --root GTA5 --out s3://bucket/shards/gta5
plca shards cityscapes --root cityscapes --split train --no-labels --out s3://bucket/shards/cityscapes_train
plca shards cityscapes --root cityscapes --split val --out s3://bucket/shards/cityscapes_val
plca shards folder --root photos --no-labels --out data/photos
plca shards folder --root mine --labels cityscapes --out data/mine --skip-broken""",
        """Shards of the domain to adapt to are written with --no-labels. A call that was cut short goes on where it
        stopped; without a manifest, which comes last, there is no data set.""",
    )
    parser.more = _layouts
    parser.add_argument("dataset", metavar="DATASET", help="one of those below")
    parser.add_argument("--root", metavar="DIR", help="the data set's own folder")
    parser.add_argument("--out", required=True, metavar="URI", help="where the shards go")
    parser.add_argument("--split", help="train, val or test, where the data set has them")
    parser.add_argument("--labels", metavar="SET", help="label set of a plain folder's labels")
    parser.add_argument("--no-labels", action="store_true", help="leave labels out: shards for a training target")
    add_size(parser, "toytown: size of the scenes")
    parser.add_argument("--count", type=at_least(1), metavar="N", help="toytown: scenes of each training set")
    parser.add_argument(
        "--seed", type=at_least(0), default=0, metavar="N", help="of the order of rows (and of toytown)"
    )
    parser.add_argument("--skip-broken", action="store_true", help="leave unreadable images out and list them")
    parser.add_argument("--overwrite", action="store_true", help="replace other shards that stand there")
    parser.add_argument("--workers", type=at_least(1), metavar="N", help="threads (default: one a core)")
    parser.add_argument("--endpoint", metavar="URL", help=ENDPOINT)


def _layouts() -> str:
    from plca_dist.data.datasets.layouts import DATASETS

    layouts = {name: known.layout for name, known in DATASETS.items()}
    layouts["toytown"] = "nothing: street scenes are drawn, into OUT/source, OUT/target (without labels) and OUT/val."
    rows = (
        textwrap.fill(layout, 98, initial_indent=f"  {name:11s} ", subsequent_indent=" " * 14)
        for name, layout in layouts.items()
    )
    return "\ndata sets, and what is expected below --root:\n" + "\n".join(rows) + "\n"


def recipes(commands: "argparse._SubParsersAction[Command]") -> None:
    parser = add_command(
        commands,
        "recipes",
        "list the shipped recipes with their cost and expected score",
        """
plca recipes
plca recipes --keys""",
    )
    parser.add_argument("--keys", action="store_true", help="list every key that --set can change, and its default")


def doctor(commands: "argparse._SubParsersAction[Command]") -> None:
    parser = add_command(
        commands,
        "doctor",
        "check Python, torch, CUDA, Ray, DeepSpeed and the store, and say what to fix",
        """
plca doctor
plca doctor --storage s3://bucket/runs
plca doctor --storage s3://bucket/runs --endpoint http://127.0.0.1:8333
plca doctor --cluster --gpu --storage s3://bucket/runs""",
        "The exit code is 1 where something fails.",
    )
    parser.add_argument("--storage", default="runs", metavar="URI", help="store to try (default: %(default)s)")
    parser.add_argument(
        "--cluster",
        action="store_true",
        help="look at every node of the Ray cluster (RAY_ADDRESS): versions, GPUs, /dev/shm, the store from there",
    )
    parser.add_argument("--gpu", action="store_true", help="fail where there is no GPU for a worker")
    parser.add_argument("--endpoint", metavar="URL", help=ENDPOINT)
