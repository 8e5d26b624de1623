"""`plca evaluate`."""

from argparse import Namespace

from plca_dist.cli.options import Commands, add_command, add_weights, inference_job, ratios
from plca_dist.output import say


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "evaluate",
        run,
        "measure mIoU on labelled shards, without and with aggregation",
        """
plca evaluate runs/toytown --data data/toytown/val
plca evaluate runs/toytown/checkpoints/step-00000100-of-2 --data data/toytown/val --json scores.json
plca evaluate runs/toytown --data data/toytown/val --aggregation 0,0.25,0.5,0.75
plca evaluate weights.safetensors --data data/camvid_val --size 180 240 --aggregation 0
plca evaluate s3://bucket/runs/gtav --data s3://bucket/shards/cityscapes_val --workers 4 --gpu""",
        "Every image counts once, over the classes of the run's recipe. Prints the per-class table and writes JSON.",
    )
    parser.add_argument("--data", required=True, metavar="URI", help="labelled shards (see `plca shards`)")
    parser.add_argument(
        "--json", metavar="URI", help="file for the scores (default: in evaluations/ beside the weights)"
    )
    parser.add_argument(
        "--aggregation",
        type=ratios,
        default=(),
        metavar="λ[,λ…]",
        help="aggregation ratios in the table's order; a single one is compared with 0 (default: the recipe's; of a "
        "file 0.5)",
    )
    add_weights(parser)


def run(parsed: Namespace) -> None:
    from plca_dist.inference.evaluate import evaluate_run
    from plca_dist.report.tables import outcome_table
    from plca_dist.storage import Location
    from plca_dist.terminal import Counters

    job, workers = inference_job(parsed, None)
    with Counters() as counters:
        outcome, written = evaluate_run(
            job,
            Location(parsed.data, parsed.endpoint),
            workers,
            counters.show,
            aggregation=parsed.aggregation,
            json_file=Location(parsed.json, parsed.endpoint) if parsed.json else None,
        )
    print(outcome_table(outcome), end="")
    say(f"json: {written}")
