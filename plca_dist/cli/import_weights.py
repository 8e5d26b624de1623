"""`plca import`."""

from argparse import Namespace

from plca_dist.cli.options import NEW_FILE, Commands, add_command, add_endpoint
from plca_dist.output import say


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "import",
        run,
        "turn a weight file of the paper's authors into a .safetensors file",
        """
plca import authors.pth --out authors.safetensors
plca import s3://bucket/authors.pth --out s3://bucket/weights/authors.safetensors""",
        """Their networks are ResNet-101, style caffe, of 19 classes or, trained on SYNTHIA, 16. `plca evaluate`,
        `predict` and `export` take the .safetensors file, and `plca train` takes it as model.weights (with
        model.style=caffe). The network takes RGB images as any other; it converts to BGR and subtracts the authors'
        mean by itself. `plca export --out FILE.pth` is the way back.""",
    )
    parser.add_argument("file", metavar="FILE", help="the authors' file: a path or a URI")
    parser.add_argument("--out", required=True, metavar="FILE", help=NEW_FILE)
    add_endpoint(parser)


def run(parsed: Namespace) -> None:
    from plca_dist.inference.export import import_authors
    from plca_dist.storage import Location

    written, labels = import_authors(Location(parsed.file, parsed.endpoint), Location(parsed.out, parsed.endpoint))
    say(f"{written}: {len(labels)} classes, in the order of the label set {labels.name}")
