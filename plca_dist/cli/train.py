"""`plca train`."""

from argparse import Namespace

from plca_dist.cli.options import RECIPE, Commands, add_command, add_settings, settings
from plca_dist.output import say


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "train",
        run,
        "train a recipe on Ray Train and DeepSpeed, or continue a run",
        """
plca train toytown
plca train toytown --name more-aggregation --set objective.aggregation=0.75
plca train toytown/advent
plca train toytown --set cluster.workers=1 --set 'source.crop=[64, 128]'
plca train gtav_to_cityscapes --set data=s3://bucket/shards --storage s3://bucket/runs
plca train runs/toytown/recipe.yaml --name again --set seed=1""",
        """A run is its directory, STORAGE/NAME. The same command again continues it from its newest checkpoint, and
        does nothing to a finished one. It runs on the cluster that RAY_ADDRESS names, else on this machine.""",
    )
    parser.add_argument("recipe", metavar="RECIPE", help=RECIPE)
    parser.add_argument("--name", help="name of the run (default: the recipe's)")
    add_settings(parser)


def run(parsed: Namespace) -> None:
    from plca_dist.methods import run_name
    from plca_dist.recipe import load

    config = load(parsed.recipe, settings(parsed))  # a typing error is answered before Ray is imported
    from plca_dist.report.tables import outcome_table
    from plca_dist.run.console import Console
    from plca_dist.run.train import train

    with Console(config.schedule.steps) as console:
        trained = train(config, parsed.name or run_name(parsed.recipe), console.show)
    if (outcome := trained.evaluation()) and "scores" in outcome:
        print(outcome_table(outcome), end="")
    say(f"run: {trained.store.uri}")
