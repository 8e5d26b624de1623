"""`plca export`."""

from argparse import Namespace

from plca_dist.cli.options import NEW_FILE, PLACE, Commands, add_command, add_endpoint, add_size, ratio
from plca_dist.output import say


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "export",
        run,
        "write a trained network as .safetensors, as .onnx, or as .pth for the authors' code",
        """
plca export runs/toytown --out model.safetensors
plca export runs/toytown --out model.onnx
plca export runs/toytown --out plain.onnx --size 96 192 --aggregation 0
plca export s3://bucket/runs/gtav --out s3://bucket/models/gtav.onnx
plca export runs/caffe-gtav --out authors.pth""",
        """The ending of --out says in which form. An ONNX file takes `image`, uint8 RGB (batch, 3, H, W), and gives
        `probabilities` (batch, classes, H, W) and `train_ids` (batch, H, W); normalization, aggregation and upsampling
        are inside, the names of the classes in its metadata. It is run beside torch before it is written. It needs pip
        install 'plca-dist[export]'. The authors' code loads a .pth file; it holds networks like theirs only:
        ResNet-101, style caffe, rates 6 12 18 24, classes of Cityscapes or SYNTHIA.""",
    )
    parser.add_argument("weights", metavar="RUN", help=PLACE)
    parser.add_argument("--out", required=True, metavar="FILE", help=NEW_FILE)
    add_size(parser, ".onnx: size of its images (default: the recipe's; where that has none, any)")
    parser.add_argument(
        "--aggregation", type=ratio, metavar="λ", help=".onnx: aggregation ratio (default: the recipe's; of a file 0.5)"
    )
    add_endpoint(parser)


def run(parsed: Namespace) -> None:
    from plca_dist.inference.export import export_network
    from plca_dist.storage import Location

    say(
        export_network(
            Location(parsed.weights, parsed.endpoint),
            Location(parsed.out, parsed.endpoint),
            size=parsed.size,
            aggregation=parsed.aggregation,
        )
    )
