"""`plca …`: parse, call one function, print. No logic lives here."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from plca_dist.errors import UserError

# Commands import what they need inside: `plca --help` should not wait for torch and ray.

# Read by OpenMP when torch is imported. Its threads spin while they wait; on a machine that does other work too, that
# made an evaluation with two threads ten times slower than with one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    parsed = _parser().parse_args(arguments)
    try:
        return parsed.run(parsed) or 0
    except UserError as error:
        print(f"plca: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("plca: interrupted", file=sys.stderr)
        return 130
    except RuntimeError as error:
        if type(error).__name__ != "TrainingFailed":
            raise
        print(f"plca: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="plca",
        description="Train semantic segmentation for a domain nobody has labelled (Pixel-Level Cycle Association).",
        epilog="Start with `plca demo`; `plca COMMAND --help` shows a command's options and examples.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, summary: str, examples: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog="examples:\n" + "\n".join(f"  {line}" for line in examples.strip().splitlines()),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(run=globals()[f"_{name}"])
        return made

    demo = command("demo", "draw scenes, train source-only and PLCA, compare them on one page", "plca demo --out demo")
    demo.add_argument("--out", default="demo", metavar="DIR", help="where everything goes (default: %(default)s)")
    demo.add_argument("--seed", type=_at_least(0), default=0, metavar="N", help="of scenes and training (default: 0)")
    demo.add_argument(
        "--steps", type=_at_least(1), metavar="N", help="training steps of each run (default: the recipe's)"
    )

    train = command(
        "train",
        "train a recipe on Ray Train and DeepSpeed, or continue a run",
        """
plca train toytown
plca train toytown --name high-lambda --set objective.aggregation=0.75
plca train gtav_to_cityscapes --set data=s3://bucket/shards --storage s3://bucket/runs""",
    )
    train.add_argument("recipe", metavar="RECIPE", help="a shipped recipe (see `plca recipes`) or a YAML file")
    train.add_argument("--name", help="of the run (default: the recipe's); the same name continues it")
    train.add_argument("--storage", metavar="URI", help="runs live in URI/NAME: s3://bucket/prefix or a path")
    _settings(train)

    evaluate = command(
        "evaluate",
        "measure mIoU on labelled shards, without and with aggregation",
        """
plca evaluate runs/toytown --data data/toytown/val
plca evaluate s3://bucket/runs/gtav --data s3://bucket/shards/cityscapes_val --workers 4 --gpu
plca evaluate runs/toytown/checkpoints/step-00000100-of-2 --data data/toytown/val""",
    )
    _weights(evaluate)
    evaluate.add_argument("--data", required=True, metavar="URI", help="labelled shards (see `plca shards`)")
    evaluate.add_argument("--json", metavar="URI", help="where the JSON goes (default: evaluations/ in the run)")

    predict = command(
        "predict",
        "write label-id PNGs, colour masks and overlays for a folder of images",
        "plca predict runs/toytown --images photos --out predictions",
    )
    _weights(predict)
    predict.add_argument("--images", required=True, metavar="DIR", help="folder or URI of PNG or JPEG images")
    predict.add_argument("--out", required=True, metavar="DIR", help="folder or URI for the results")

    _shards_options(command)

    command("recipes", "list the shipped recipes with their cost and expected score", "plca recipes")

    doctor = command(
        "doctor",
        "check Python, torch, CUDA, Ray, DeepSpeed and the store, and say what to fix",
        "plca doctor\nplca doctor --storage s3://bucket/runs --endpoint http://127.0.0.1:8333",
    )
    doctor.add_argument("--storage", default="runs", metavar="URI", help="store to try (default: %(default)s)")
    doctor.add_argument("--endpoint", metavar="URL", help="of an S3-compatible server (default: AWS_ENDPOINT_URL)")
    return parser


def _settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one key, e.g. optimizer.lr=0.01; repeatable",
    )


def _weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="RUN", help="a run, RUN/checkpoints/step-…, or a .safetensors file")
    parser.add_argument("--aggregation", type=_ratio, metavar="λ", help="aggregation ratio (default: the recipe's)")
    parser.add_argument(
        "--size", type=_at_least(8), nargs=2, metavar=("H", "W"), help="input size (default: the recipe's)"
    )
    parser.add_argument("--workers", type=_at_least(1), default=1, metavar="N", help="processes (default: 1, here)")
    parser.add_argument("--gpu", action="store_true", help="one GPU for each worker")
    parser.add_argument("--endpoint", metavar="URL", help="of an S3-compatible server (default: AWS_ENDPOINT_URL)")


def _shards_options(command: object) -> None:
    from plca_dist.data.readers import DATASETS

    layouts = "\n".join(f"  {name:11s} {known.layout}" for name, known in DATASETS.items())
    shards = command(  # type: ignore[operator]
        "shards",
        "turn a data set into Parquet shards and a manifest",
        f"""
plca shards gta5 --root GTA5 --out s3://bucket/shards/gta5
plca shards cityscapes --root cityscapes --split train --no-labels --out s3://bucket/shards/cityscapes_train
plca shards cityscapes --root cityscapes --split val --out s3://bucket/shards/cityscapes_val
plca shards toytown --out data/toytown

data sets and their layout below --root:
{layouts}""",
    )
    shards.add_argument("dataset", metavar="DATASET", help=f"one of {', '.join(DATASETS)}")
    shards.add_argument("--root", type=Path, metavar="DIR", help="the data set's own folder")
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
    shards.add_argument("--workers", type=_at_least(1), default=os.cpu_count() or 1, metavar="N", help="threads")
    shards.add_argument("--endpoint", metavar="URL", help="of an S3-compatible server (default: AWS_ENDPOINT_URL)")


def _at_least(low: int):  # type: ignore[no-untyped-def]
    def whole_number(text: str) -> int:
        if int(text) < low:
            raise argparse.ArgumentTypeError(f"{text} is below {low}")
        return int(text)

    return whole_number


def _ratio(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


def _demo(parsed: argparse.Namespace) -> None:
    from plca_dist.launch.demo import demo

    demo(Path(parsed.out), seed=parsed.seed, steps=parsed.steps)


def _train(parsed: argparse.Namespace) -> None:
    from plca_dist.launch.train import train
    from plca_dist.recipe import load
    from plca_dist.report.console import Console
    from plca_dist.report.tables import outcome_table

    storage = [f"storage.uri={parsed.storage}"] if parsed.storage else []
    config = load(parsed.recipe, [*parsed.set, *storage])
    with Console(config.schedule.steps) as console:
        run = train(config, parsed.name or Path(parsed.recipe).stem, console.show)
    if outcome := run.evaluation():
        print(outcome_table(outcome))
    print(f"run: {run.store.uri}")


def _evaluate(parsed: argparse.Namespace) -> None:
    from plca_dist.launch.evaluate import evaluate_run, job_from
    from plca_dist.report.console import Counters
    from plca_dist.report.tables import outcome_table

    job, workers = job_from(
        parsed.weights, parsed.aggregation, parsed.size, parsed.endpoint, parsed.workers, parsed.gpu
    )
    with Counters() as counters:
        outcome, written = evaluate_run(job, parsed.data, workers, counters.show, json_uri=parsed.json)
    print(outcome_table(outcome))
    print(f"json: {written}")


def _predict(parsed: argparse.Namespace) -> None:
    from plca_dist.launch.evaluate import job_from, predict_images
    from plca_dist.report.console import Counters

    job, workers = job_from(
        parsed.weights, parsed.aggregation, parsed.size, parsed.endpoint, parsed.workers, parsed.gpu
    )
    with Counters() as counters:
        images, ids = predict_images(job, parsed.images, parsed.out, workers, counters.show)
    print(f"{images} images: {parsed.out}/{ids}, {parsed.out}/colour, {parsed.out}/overlay")


def _shards(parsed: argparse.Namespace) -> None:
    from plca_dist.data.prepare import TOYTOWN_COUNT, prepare, prepare_toytown
    from plca_dist.report.console import Counters
    from plca_dist.storage import probe

    out = probe(parsed.out, parsed.endpoint)
    common = {"seed": parsed.seed, "overwrite": parsed.overwrite, "workers": parsed.workers}
    with Counters() as counters:
        if parsed.dataset == "toytown":
            _refuse(parsed, "toytown", ("root", "split", "labels", "no_labels", "skip_broken"))
            size = tuple(parsed.size) if parsed.size else (96, 192)
            count = parsed.count or TOYTOWN_COUNT
            manifests = prepare_toytown(out, size=size, count=count, progress=counters.show, **common)
        else:
            _refuse(parsed, parsed.dataset, ("size", "count"))
            manifests = {
                "": prepare(
                    parsed.dataset,
                    out,
                    root=parsed.root,
                    split=parsed.split,
                    labels=parsed.labels,
                    with_labels=not parsed.no_labels,
                    skip_broken=parsed.skip_broken,
                    progress=counters.show,
                    **common,
                )
            }
    for name, manifest in manifests.items():
        print(f"{out.child(name).uri if name else out.uri}: {manifest.summary()}")


def _refuse(parsed: argparse.Namespace, dataset: str, options: Sequence[str]) -> None:
    for option in options:
        if getattr(parsed, option):
            raise UserError(f"{dataset} takes no --{option.replace('_', '-')}.")


def _recipes(parsed: argparse.Namespace) -> None:
    from plca_dist.recipe import load, recipes

    for name, path in recipes().items():
        about = load(str(path)).about
        print(f"{name}: {about.summary}\n  command  {about.command}\n  cost     {about.cost}\n  score    {about.score}")


def _doctor(parsed: argparse.Namespace) -> int:
    from plca_dist.launch.doctor import examine

    failed = False
    for finding in examine(parsed.storage, parsed.endpoint):
        failed |= not finding.good
        print(f"{'ok  ' if finding.good else 'FAIL'}  {finding.what}: {finding.detail}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
