"""`plca predict`."""

from argparse import Namespace

from plca_dist.cli.options import Commands, add_command, add_weights, inference_job, ratio
from plca_dist.errors import counted
from plca_dist.output import say


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "predict",
        run,
        "write label-id PNGs, colour masks and overlays for a folder of images",
        """
plca predict runs/toytown --images photos --out predictions
plca predict runs/toytown --images photos/street.jpg --out predictions --train-ids
plca predict weights.safetensors --images photos --out predictions --size 360 480 --aggregation 0
plca predict s3://bucket/runs/gtav --images s3://bucket/photos --out s3://bucket/masks --workers 4 --gpu""",
        """Every image, in subfolders too, gets three PNGs of its own size: OUT/label_ids (ids as the Cityscapes
        evaluator takes them; OUT/train_ids for classes that Cityscapes does not have, and with --train-ids), OUT/colour
        and OUT/overlay, each in the image's subfolder. `plca shards folder` reads train ids as labels.""",
    )
    parser.add_argument("--images", required=True, metavar="DIR", help="folder or URI of images, or one image")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder or URI for the results")
    parser.add_argument(
        "--aggregation", type=ratio, metavar="λ", help="aggregation ratio (default: the recipe's; of a file 0.5)"
    )
    parser.add_argument("--train-ids", action="store_true", help="write train ids also where there are label ids")
    add_weights(parser)


def run(parsed: Namespace) -> None:
    from plca_dist.inference.predict import predict_images
    from plca_dist.storage import Location
    from plca_dist.terminal import Counters

    job, workers = inference_job(parsed, parsed.aggregation)
    with Counters() as counters:
        images, folders = predict_images(
            job,
            Location(parsed.images, parsed.endpoint),
            Location(parsed.out, parsed.endpoint),
            workers,
            counters.show,
            train_ids=parsed.train_ids,
        )
    say(f"{counted(images, 'images')}:", *(f"  {folder}" for folder in folders))
