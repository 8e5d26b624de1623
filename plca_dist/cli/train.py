"""What `plca demo`, `train` and `tune` take."""

import argparse

from plca_dist.cli.command import RECIPE, Command, add_command, add_settings, at_least


def demo(commands: "argparse._SubParsersAction[Command]") -> None:
    parser = add_command(
        commands,
        "demo",
        "draw scenes, train source-only and PLCA, compare them on one page",
        """
plca demo
plca demo --out /tmp/demo --seed 1
plca demo --out quick --steps 20""",
        "Needs no data and no GPU; minutes on 2 CPU cores. The same command again continues, or shows what it finds.",
    )
    parser.add_argument("--out", default="demo", metavar="DIR", help="where everything goes (default: %(default)s)")
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="of scenes and training (default: 0)")
    parser.add_argument(
        "--steps", type=at_least(1), metavar="N", help="training steps of each run (default: the recipe's)"
    )


def train(commands: "argparse._SubParsersAction[Command]") -> None:
    parser = add_command(
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
    parser.add_argument("recipe", metavar="RECIPE", help=RECIPE)
    parser.add_argument("--name", help="of the run (default: the recipe's)")
    add_settings(parser)


def tune(commands: "argparse._SubParsersAction[Command]") -> None:
    parser = add_command(
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
    parser.add_argument("space", metavar="SPACE", help="a space file, such as those in tune_spaces/")
    parser.add_argument("--recipe", required=True, metavar="RECIPE", help=RECIPE)
    parser.add_argument("--name", help="of the search (default: the space's and the recipe's names)")
    add_settings(parser)
