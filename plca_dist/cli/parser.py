"""The parser of `plca`, put together from those of the commands. Imports nothing heavy, so help appears at once."""

import argparse
from typing import Any

from plca_dist.cli import (
    demo,
    doctor,
    evaluate,
    export,
    import_weights,
    predict,
    recipes,
    report,
    shards,
    train,
    tune,
)
from plca_dist.cli.options import Command

#: The commands, in the order of the help. `add` of each makes the command's parser and sets its `body`.
_COMMANDS = (demo, train, tune, evaluate, predict, report, export, import_weights, shards, recipes, doctor)


class _Version(argparse.Action):
    """Looks the version up when somebody asks for it, which takes longer than the rest of the parser."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"plca {version('plca-dist')}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command. Its result has `command`, the command's name, and `body`, the function to call."""
    parser = argparse.ArgumentParser(
        prog="plca",
        description="Train semantic segmentation for a domain nobody has labelled (Pixel-Level Cycle Association).",
        epilog="Start with `plca demo`; `plca COMMAND --help` shows a command's options and examples.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True, parser_class=Command
    )
    for command in _COMMANDS:
        command.add(commands)
    return parser
