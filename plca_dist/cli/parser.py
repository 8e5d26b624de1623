"""What can be typed after `plca`, and the help for it. Imports nothing heavy: `plca --help` answers at once."""

import argparse
from importlib.metadata import version

from plca_dist.cli import preparing, results, runs, weights
from plca_dist.cli.command import Command


def build_parser() -> argparse.ArgumentParser:
    """The parser of everything; what it returns has `command`, the name of a function in `commands.py`."""
    parser = argparse.ArgumentParser(
        prog="plca",
        description="Train semantic segmentation for a domain nobody has labelled (Pixel-Level Cycle Association).",
        epilog="Start with `plca demo`; `plca COMMAND --help` shows a command's options and examples.",
    )
    parser.add_argument("--version", action="version", version=f"plca {version('plca-dist')}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True, parser_class=Command
    )
    for add in (runs.demo, runs.train, runs.tune, results.evaluate, results.predict, results.report):
        add(commands)
    for add in (weights.weights, weights.export):
        add(commands)
    for add in (preparing.shards, preparing.recipes, preparing.doctor):
        add(commands)
    return parser
