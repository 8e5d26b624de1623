"""What `plca evaluate`, `predict` and `report` take."""

import argparse

from plca_dist.cli.command import Command, add_command, add_weights, add_workers, at_least, ratio, ratios


def evaluate(commands: "argparse._SubParsersAction[Command]") -> None:
    parser = add_command(
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
    parser.add_argument("--data", required=True, metavar="URI", help="labelled shards (see `plca shards`)")
    parser.add_argument("--json", metavar="URI", help="where the JSON goes (default: evaluations/ beside the weights)")
    parser.add_argument(
        "--aggregation",
        type=ratios,
        default=(),
        metavar="λ[,λ…]",
        help="aggregation ratios, measured as listed; a single one beside 0 (default: the recipe's; of a file 0.5)",
    )
    add_weights(parser)


def predict(commands: "argparse._SubParsersAction[Command]") -> None:
    parser = add_command(
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
    parser.add_argument("--images", required=True, metavar="DIR", help="folder or URI of PNG or JPEG images")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder or URI for the results")
    parser.add_argument(
        "--aggregation", type=ratio, metavar="λ", help="aggregation ratio (default: the recipe's; of a file 0.5)"
    )
    add_weights(parser)


def report(commands: "argparse._SubParsersAction[Command]") -> None:
    parser = add_command(
        commands,
        "report",
        "make one page of one or several runs: curves, tables, pictures",
        """
plca report runs/toytown
plca report runs/source-only runs/toytown --out comparison
plca report runs/toytown --data data/toytown/val --images 8 --candidates 100
plca report s3://bucket/runs/gtav --images 0
plca report s3://bucket/runs/source-only s3://bucket/runs/gtav --out s3://bucket/report --workers 4 --gpu""",
        """Runs need not be finished: the page says what is not there yet. Of several runs the last is compared with the
        first, and decides which images are shown: half of them its worst, half its best. The page is one HTML file that
        needs no network; its pictures are beside it as PNG files. --workers and --gpu serve the scoring of candidates
        alone; what is shown is drawn by this process, on the CPU.""",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="directories or URIs of runs, in the order of columns")
    parser.add_argument("--out", metavar="DIR", help="folder or URI (default: RUN/report; of several runs, report)")
    parser.add_argument(
        "--data", metavar="URI", default="", help="labelled shards (default: the recipe's evaluation.uri)"
    )
    parser.add_argument(
        "--images", type=at_least(0), default=6, metavar="N", help="images shown (default: 6); 0: no pictures"
    )
    parser.add_argument(
        "--candidates", type=at_least(1), default=50, metavar="N", help="from the first N of the set (default: 50)"
    )
    parser.add_argument(
        "--aggregation", type=ratio, default=0.0, metavar="λ", help="of the predictions shown (default: 0, without)"
    )
    add_workers(parser)
