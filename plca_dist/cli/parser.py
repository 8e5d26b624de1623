"""What can be typed after `plca`, and the help for it. Imports nothing heavy: `plca --help` answers at once."""

import argparse
import textwrap
from collections.abc import Callable
from importlib.metadata import version

_RECIPE = "a shipped recipe (see `plca recipes`) or a YAML file"
_ENDPOINT = "of an S3-compatible server (default: AWS_ENDPOINT_URL)"


def build_parser() -> argparse.ArgumentParser:
    """The parser of everything; what it returns has `command`, the name of a function in `commands.py`."""
    parser = argparse.ArgumentParser(
        prog="plca",
        description="Train semantic segmentation for a domain nobody has labelled (Pixel-Level Cycle Association).",
        epilog="Start with `plca demo`; `plca COMMAND --help` shows a command's options and examples.",
    )
    parser.add_argument("--version", action="version", version=f"plca {version('plca-dist')}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True, parser_class=_Command
    )
    for add in (_demo, _train, _tune, _evaluate, _predict, _shards, _recipes, _doctor):
        add(commands)
    return parser


class _Command(argparse.ArgumentParser):
    """A command's parser, with examples below its options, and more text that is made when somebody asks for it."""

    more: Callable[[], str] | None = None

    def format_help(self) -> str:
        return super().format_help() + (self.more() if self.more else "")


def _command(
    commands: "argparse._SubParsersAction[_Command]", name: str, summary: str, examples: str, text: str = ""
) -> _Command:
    lines = "\n".join(f"  {line}" for line in examples.strip().splitlines())
    about = f"{summary[0].upper()}{summary[1:]}."
    return commands.add_parser(
        name,
        help=summary,
        description="\n\n".join(textwrap.fill(part, 98) for part in (about, " ".join(text.split())) if part),
        epilog=f"examples:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _demo(commands: "argparse._SubParsersAction[_Command]") -> None:
    demo = _command(
        commands,
        "demo",
        "draw scenes, train source-only and PLCA, compare them on one page",
        """
plca demo
plca demo --out /tmp/demo --seed 1
plca demo --out quick --steps 20""",
        "Needs no data and no GPU; minutes on 2 CPU cores. The same command again continues, or shows what it finds.",
    )
    demo.add_argument("--out", default="demo", metavar="DIR", help="where everything goes (default: %(default)s)")
    demo.add_argument("--seed", type=_at_least(0), default=0, metavar="N", help="of scenes and training (default: 0)")
    demo.add_argument(
        "--steps", type=_at_least(1), metavar="N", help="training steps of each run (default: the recipe's)"
    )


def _train(commands: "argparse._SubParsersAction[_Command]") -> None:
    train = _command(
        commands,
        "train",
        "train a recipe on Ray Train and DeepSpeed, or continue a run",
        """
plca train toytown
plca train toytown --name more-aggregation --set objective.aggregation=0.75
plca train toytown --set cluster.workers=1 --set 'source.crop=[64, 128]'
plca train gtav_to_cityscapes --set data=s3://bucket/shards --storage s3://bucket/runs
plca train runs/toytown/recipe.yaml --name again --set seed=1""",
        """A run is its directory, STORAGE/NAME. The same command again continues it from its newest checkpoint, and
        finds a finished one finished. It runs on the cluster that RAY_ADDRESS names, else on this machine.""",
    )
    train.add_argument("recipe", metavar="RECIPE", help=_RECIPE)
    train.add_argument("--name", help="of the run (default: the recipe's)")
    _settings(train)


def _settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--storage", metavar="URI", help="s3://bucket/prefix or a path (default: the recipe's, runs)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one key, e.g. optimizer.lr=0.01; repeatable; `plca recipes --keys` lists all",
    )


def _tune(commands: "argparse._SubParsersAction[_Command]") -> None:
    tune = _command(
        commands,
        "tune",
        "search loss weights, λ and γ with Ray Tune, or continue a search",
        """
plca tune tune_spaces/smoke.yaml --recipe toytown
plca tune tune_spaces/loss_weights.yaml --recipe gtav_to_cityscapes --set data=s3://bucket/shards
plca tune tune_spaces/ablation.yaml --recipe toytown --name table-1
plca train runs/smoke-toytown/best.yaml --name best""",
        """A search is its directory, STORAGE/NAME, and each of its trials a run below trials/ in it. The same command
        again continues the search without repeating trials that ended. It leaves best.yaml, a recipe for `plca train`,
        trials.csv and index.html. It runs on the cluster that RAY_ADDRESS names, else on this machine.""",
    )
    tune.add_argument("space", metavar="SPACE", help="a space file, such as those in tune_spaces/")
    tune.add_argument("--recipe", required=True, metavar="RECIPE", help=_RECIPE)
    tune.add_argument("--name", help="of the search (default: the space's and the recipe's names)")
    _settings(tune)


def _evaluate(commands: "argparse._SubParsersAction[_Command]") -> None:
    evaluate = _command(
        commands,
        "evaluate",
        "measure mIoU on labelled shards, without and with aggregation",
        """
plca evaluate runs/toytown --data data/toytown/val
plca evaluate runs/toytown/checkpoints/step-00000100-of-2 --data data/toytown/val --json scores.json
plca evaluate runs/toytown --data data/toytown/val --aggregation 0,0.25,0.5,0.75
plca evaluate weights.safetensors --data data/camvid_val --size 180 240 --aggregation 0
plca evaluate s3://bucket/runs/gtav --data s3://bucket/shards/cityscapes_val --workers 4 --gpu""",
        "Every image counts once, over the classes of the run's recipe. Prints the per-class table and writes JSON.",
    )
    evaluate.add_argument("--data", required=True, metavar="URI", help="labelled shards (see `plca shards`)")
    evaluate.add_argument(
        "--json", metavar="URI", help="where the JSON goes (default: evaluations/ beside the weights)"
    )
    evaluate.add_argument(
        "--aggregation",
        type=_ratios,
        default=(),
        metavar="λ[,λ…]",
        help="aggregation ratios, measured as listed; a single one beside 0 (default: the recipe's; of a file 0.5)",
    )
    _weights(evaluate)


def _predict(commands: "argparse._SubParsersAction[_Command]") -> None:
    predict = _command(
        commands,
        "predict",
        "write label-id PNGs, colour masks and overlays for a folder of images",
        """
plca predict runs/toytown --images photos --out predictions
plca predict weights.safetensors --images photos --out predictions --size 360 480 --aggregation 0
plca predict s3://bucket/runs/gtav --images s3://bucket/photos --out s3://bucket/masks --workers 4 --gpu""",
        """Every image, in subfolders too, gets three PNGs of its own size: OUT/label_ids (ids as the Cityscapes
        evaluator takes them; OUT/train_ids for classes that Cityscapes does not have), OUT/colour and OUT/overlay.""",
    )
    predict.add_argument("--images", required=True, metavar="DIR", help="folder or URI of PNG or JPEG images")
    predict.add_argument("--out", required=True, metavar="DIR", help="folder or URI for the results")
    predict.add_argument(
        "--aggregation", type=_ratio, metavar="λ", help="aggregation ratio (default: the recipe's; of a file 0.5)"
    )
    _weights(predict)


def _weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="RUN", help="a run, RUN/checkpoints/step-…, or a .safetensors file")
    parser.add_argument(
        "--size",
        type=_at_least(8),
        nargs=2,
        metavar=("H", "W"),
        help="size of the network's input (default: the recipe's; of a file the image's)",
    )
    parser.add_argument(
        "--workers", type=_at_least(1), default=1, metavar="N", help="processes (default: this one, without a cluster)"
    )
    parser.add_argument("--gpu", action="store_true", help="one GPU for each worker")
    parser.add_argument("--endpoint", metavar="URL", help=_ENDPOINT)


def _shards(commands: "argparse._SubParsersAction[_Command]") -> None:
    shards = _command(
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
    shards.more = _layouts
    shards.add_argument("dataset", metavar="DATASET", help="one of those below")
    shards.add_argument("--root", metavar="DIR", help="the data set's own folder")
    shards.add_argument("--out", required=True, metavar="URI", help="where the shards go")
    shards.add_argument("--split", help="train, val or test, where the data set has them")
    shards.add_argument("--labels", metavar="SET", help="label set of a plain folder's labels")
    shards.add_argument("--no-labels", action="store_true", help="leave labels out: shards for a training target")
    shards.add_argument("--size", type=_at_least(8), nargs=2, metavar=("H", "W"), help="toytown: size of the scenes")
    shards.add_argument("--count", type=_at_least(1), metavar="N", help="toytown: scenes of each training set")
    shards.add_argument(
        "--seed", type=_at_least(0), default=0, metavar="N", help="of the order of rows (and of toytown)"
    )
    shards.add_argument("--skip-broken", action="store_true", help="leave unreadable images out and list them")
    shards.add_argument("--overwrite", action="store_true", help="replace other shards that stand there")
    shards.add_argument("--workers", type=_at_least(1), metavar="N", help="threads (default: one a core)")
    shards.add_argument("--endpoint", metavar="URL", help=_ENDPOINT)


def _layouts() -> str:
    from plca_dist.data.readers import DATASETS

    layouts = {name: known.layout for name, known in DATASETS.items()}
    layouts["toytown"] = "nothing: street scenes are drawn, into OUT/source, OUT/target (without labels) and OUT/val."
    rows = (
        textwrap.fill(layout, 98, initial_indent=f"  {name:11s} ", subsequent_indent=" " * 14)
        for name, layout in layouts.items()
    )
    return "\ndata sets, and what is expected below --root:\n" + "\n".join(rows) + "\n"


def _recipes(commands: "argparse._SubParsersAction[_Command]") -> None:
    recipes = _command(
        commands,
        "recipes",
        "list the shipped recipes with their cost and expected score",
        """
plca recipes
plca recipes --keys""",
    )
    recipes.add_argument("--keys", action="store_true", help="list every key that --set can change, and its default")


def _doctor(commands: "argparse._SubParsersAction[_Command]") -> None:
    doctor = _command(
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
    doctor.add_argument("--storage", default="runs", metavar="URI", help="store to try (default: %(default)s)")
    doctor.add_argument(
        "--cluster",
        action="store_true",
        help="look at every node of the Ray cluster (RAY_ADDRESS): versions, GPUs, /dev/shm, the store from there",
    )
    doctor.add_argument("--gpu", action="store_true", help="fail where there is no GPU for a worker")
    doctor.add_argument("--endpoint", metavar="URL", help=_ENDPOINT)


def _at_least(low: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if value < low:
            raise argparse.ArgumentTypeError(f"{value} is below {low}")
        return value

    return whole_number


def _ratio(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


def _ratios(text: str) -> tuple[float, ...]:
    values = tuple(map(_ratio, text.split(",")))
    shown = [f"{value:g}" for value in values]
    if twice := [name for name in dict.fromkeys(shown) if shown.count(name) > 1]:
        raise argparse.ArgumentTypeError(f"{', '.join(twice)} is given twice")
    return values
