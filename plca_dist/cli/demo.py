"""`plca demo`."""

from argparse import Namespace
from pathlib import Path

from plca_dist.cli.options import Commands, add_command, at_least


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "demo",
        run,
        "draw scenes, train source-only and PLCA, compare them on one page",
        """
plca demo
plca demo --out /tmp/demo --seed 1
plca demo --out quick --steps 20""",
        "Needs no data and no GPU; minutes on 2 CPU cores. The same command again continues, or shows what it finds.",
    )
    parser.add_argument("--out", default="demo", metavar="DIR", help="where everything goes (default: %(default)s)")
    parser.add_argument(
        "--seed", type=at_least(0), default=0, metavar="N", help="seed of scenes and training (default: 0)"
    )
    parser.add_argument(
        "--steps", type=at_least(1), metavar="N", help="training steps of each run (default: the recipe's)"
    )


def run(parsed: Namespace) -> None:
    from plca_dist.demo import demo

    demo(Path(parsed.out), seed=parsed.seed, steps=parsed.steps)
