"""`plca tune`."""

from argparse import Namespace
from pathlib import Path

from plca_dist.cli.options import RECIPE, Commands, add_command, add_settings, settings


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "tune",
        run,
        "search loss weights, λ and γ with Ray Tune, or continue a search",
        """
plca tune smoke --recipe toytown && plca train runs/smoke-toytown/best.yaml --name best
plca tune loss_weights --recipe gtav_to_cityscapes --set data=s3://bucket/shards
plca tune ablation --recipe toytown --name table-1
plca tune mine.yaml --recipe toytown""",
        """A search is its directory, STORAGE/NAME, and each of its trials is a run below trials/. The same command
        again continues the search without repeating trials that ended. It leaves best.yaml, which is a recipe for
        `plca train`, trials.csv and index.html. It runs on the cluster that RAY_ADDRESS names, else on this
        machine.""",
    )
    parser.add_argument("space", metavar="SPACE", help="a shipped space (see `plca recipes`) or a YAML file")
    parser.add_argument("--recipe", required=True, metavar="RECIPE", help=RECIPE)
    parser.add_argument("--name", help="name of the search (default: SPACE-RECIPE)")
    add_settings(parser)


def run(parsed: Namespace) -> None:
    from plca_dist.methods import run_name
    from plca_dist.recipe import load
    from plca_dist.search.space import load_space

    space = load_space(parsed.space)
    base = load(parsed.recipe, settings(parsed))
    space.check(base)  # typing errors are answered before Ray is imported
    from plca_dist.search.console import SearchConsole
    from plca_dist.search.results import leave_results
    from plca_dist.search.tune import tune

    with SearchConsole(space.metric, space.count) as console:
        name = parsed.name or f"{Path(parsed.space).stem}-{run_name(parsed.recipe)}"
        search = tune(space, base, name, console)
    print(leave_results(search), end="")
