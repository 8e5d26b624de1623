"""What `plca weights` and `plca export` take."""

import argparse

from plca_dist.cli.command import ENDPOINT, PLACE, Command, add_command, add_size, ratio


def weights(commands: "argparse._SubParsersAction[Command]") -> None:
    parser = add_command(
        commands,
        "weights",
        "bring the paper's authors' weight files in, or write one",
        """
plca weights import authors.pth --out authors.safetensors
plca weights export authors.safetensors --out again.pth""",
        """Their networks are ResNet-101, style caffe, of 19 classes or, trained on SYNTHIA, 16. An imported file is
        what evaluate, predict and export take, and train as model.weights (with model.style=caffe). It is given RGB
        images as any other; BGR and the authors' mean are applied inside.""",
    )
    actions = parser.add_subparsers(
        title="actions", metavar="ACTION", dest="action", required=True, parser_class=Command
    )
    into = add_command(
        actions,
        "import",
        "turn an authors' file into a .safetensors file that every command takes",
        """
plca weights import authors.pth --out authors.safetensors
plca weights import s3://bucket/authors.pth --out s3://bucket/weights/authors.safetensors""",
    )
    into.add_argument("file", metavar="FILE", help="the authors' file: a path or a URI")
    back = add_command(
        actions,
        "export",
        "write a run's weights as a file that the authors' code loads",
        """
plca weights export authors.safetensors --out again.pth
plca weights export s3://bucket/runs/caffe-gtav --out authors.pth""",
        "For networks like theirs only: ResNet-101, style caffe, rates 6 12 18 24, classes of Cityscapes or SYNTHIA.",
    )
    back.add_argument("weights", metavar="RUN", help=PLACE)
    for action in (into, back):
        action.add_argument("--out", required=True, metavar="FILE", help="path or URI of a file that does not exist")
        action.add_argument("--endpoint", metavar="URL", help=ENDPOINT)


def export(commands: "argparse._SubParsersAction[Command]") -> None:
    parser = add_command(
        commands,
        "export",
        "write a trained network as .safetensors or .onnx",
        """
plca export runs/toytown --out model.safetensors
plca export runs/toytown --out model.onnx
plca export runs/toytown --out plain.onnx --size 96 192 --aggregation 0
plca export s3://bucket/runs/gtav --out s3://bucket/models/gtav.onnx""",
        """An ONNX file takes `image`, uint8 RGB (batch, 3, H, W), and gives `probabilities` (batch, classes, H, W) and
        `train_ids` (batch, H, W); normalization, aggregation and upsampling are inside, the names of the classes in its
        metadata. It is run beside torch before it is written. It needs pip install 'plca-dist[export]'.""",
    )
    parser.add_argument("weights", metavar="RUN", help=PLACE)
    parser.add_argument("--out", required=True, metavar="FILE", help="path or URI of a file that does not exist")
    add_size(parser, ".onnx: size of its images (default: the recipe's; where that has none, any)")
    parser.add_argument(
        "--aggregation", type=ratio, metavar="λ", help=".onnx: aggregation ratio (default: the recipe's; of a file 0.5)"
    )
    parser.add_argument("--endpoint", metavar="URL", help=ENDPOINT)
