"""What the commands' parsers share: the form of a command, common options, values that are checked."""

import argparse
import textwrap
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from plca_dist.config import ClusterSettings
    from plca_dist.inference.distribute import InferenceJob

#: The argument of `add` in each command's file.
Commands: TypeAlias = "argparse._SubParsersAction[Command]"

PLACE = "a run's directory or URI, RUN/checkpoints/step-…, or a .safetensors file"
NEW_FILE = "path or URI of a file that does not exist"
RECIPE = "a shipped recipe (see `plca recipes`) or a YAML file, or either of them /METHOD"


class Command(argparse.ArgumentParser):
    """The parser of one command. Its help shows the examples below the options, and may end with more text.

    Attributes:
        more: makes the text at the end of the help, when the help is shown.
    """

    more: Callable[[], str] | None = None

    def format_help(self) -> str:
        return super().format_help() + (self.more() if self.more else "")


def add_command(
    commands: Commands,
    name: str,
    body: Callable[[Namespace], int | None],
    summary: str,
    examples: str,
    text: str = "",
) -> Command:
    """A command called `name`.

    Args:
        body: does the work, given the parsed arguments; returns the exit code, or None for 0.
        summary: one line for the list of commands, which also begins the command's own help.
        examples: one command a line.
        text: more about the command, for its own help.
    """
    lines = "\n".join(f"  {line}" for line in examples.strip().splitlines())
    about = f"{summary[0].upper()}{summary[1:]}."
    parser = commands.add_parser(
        name,
        help=summary,
        description="\n\n".join(textwrap.fill(part, 98) for part in (about, " ".join(text.split())) if part),
        epilog=f"examples:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(body=body)
    return parser


def add_settings(parser: Command) -> None:
    """--storage and --set; `settings` reads them."""
    parser.add_argument(
        "--storage", metavar="URI", help="s3://, gs://, az://bucket/prefix or a path (default: the recipe's)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one key, e.g. optimizer.lr=0.01; repeatable; `plca recipes --keys` lists all",
    )


def settings(parsed: Namespace) -> list[str]:
    """The overrides of the recipe."""
    return [*parsed.set, *([f"storage.uri={parsed.storage}"] if parsed.storage else [])]


def add_weights(parser: Command) -> None:
    """RUN and what inference on it takes; `inference_job` reads them."""
    parser.add_argument("weights", metavar="RUN", help=PLACE)
    add_size(parser, "size of the network's input (default: the recipe's; of a file the image's)")
    add_workers(parser)
    add_endpoint(parser)


def inference_job(parsed: Namespace, aggregation: float | None) -> "tuple[InferenceJob, ClusterSettings]":
    """The job and its workers."""
    from plca_dist.inference.distribute import job_from
    from plca_dist.storage import Location

    weights = Location(parsed.weights, parsed.endpoint)
    return job_from(weights, aggregation, parsed.size, parsed.workers, parsed.gpu)


def add_size(parser: Command, text: str) -> None:
    parser.add_argument("--size", type=at_least(8), nargs=2, metavar=("H", "W"), help=text)


def add_workers(parser: Command) -> None:
    parser.add_argument(
        "--workers",
        type=at_least(1),
        default=1,
        metavar="N",
        help="processes (default: this one, without a cluster)",
    )
    parser.add_argument("--gpu", action="store_true", help="one GPU for each worker")


def add_endpoint(parser: Command) -> None:
    parser.add_argument("--endpoint", metavar="URL", help="an S3-compatible server (default: AWS_ENDPOINT_URL)")


def at_least(low: int) -> Callable[[str], int]:
    """The type of an option that is a whole number of at least `low`."""

    def whole_number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if value < low:
            raise argparse.ArgumentTypeError(f"{value} is below {low}")
        return value

    return whole_number


def ratio(text: str) -> float:
    """An aggregation ratio λ in [0, 1)."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


def ratios(text: str) -> tuple[float, ...]:
    """Aggregation ratios, separated by commas and all different."""
    values = tuple(map(ratio, text.split(",")))
    shown = [f"{value:g}" for value in values]
    if twice := [name for name in dict.fromkeys(shown) if shown.count(name) > 1]:
        raise argparse.ArgumentTypeError(f"{', '.join(twice)} is given twice")
    return values
