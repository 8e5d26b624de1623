"""`plca demo`."""

from argparse import ArgumentTypeError, Namespace
from pathlib import Path

from plca_dist.cli.options import Commands, add_command, at_least
from plca_dist.errors import UserError


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "demo",
        run,
        "train source-only and PLCA on scenes that are drawn, or on photographs, and compare them on one page",
        """
plca demo
plca demo --out /tmp/demo --seed 1
plca demo --out quick --steps 20
plca demo --photographs camvid=CamVid idd_lite=idd20k_lite --weights efficientnet-lite0-57934424.pth""",
        """Needs no data and no GPU; minutes on 2 CPU cores. The same command again continues, or shows what it finds.
        --photographs wants CamVid and IDD Lite on the disk, the extra plca-dist[timm], and a quarter of an hour.""",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="where everything goes (default: demo; of photographs: the recipe's name)"
    )
    parser.add_argument(
        "--photographs",
        nargs=2,
        type=_named_directory,
        metavar="NAME=DIR",
        help="camvid=DIR and idd_lite=DIR: the first with its labels as the source, the second as the target",
    )
    parser.add_argument(
        "--weights",
        metavar="URI",
        help="photographs: ImageNet weights of tf_efficientnet_lite0; hub: from the internet",
    )
    parser.add_argument(
        "--seed", type=at_least(0), default=0, metavar="N", help="seed of scenes and training (default: 0)"
    )
    parser.add_argument(
        "--steps", type=at_least(1), metavar="N", help="training steps of each run (default: the recipe's)"
    )


def run(parsed: Namespace) -> None:
    from plca_dist.demo import demo, photographs, toytown

    if (parsed.photographs is None) != (parsed.weights is None):
        raise UserError("--photographs and --weights go together: real photographs want pretrained weights.")
    if parsed.photographs:
        source, target = parsed.photographs
        subject = photographs(source, target, parsed.weights)
        out = parsed.out or subject.recipe
    else:
        subject, out = toytown(parsed.seed), parsed.out or "demo"
    demo(Path(out), subject, seed=parsed.seed, steps=parsed.steps)


def _named_directory(text: str) -> tuple[str, Path]:
    name, equals, directory = text.partition("=")
    if not equals or not name or not directory:
        raise ArgumentTypeError(f"{text!r} is no NAME=DIR")
    return name, Path(directory).expanduser()
