"""What the parsers of commands share: how a command looks, options that several take, checked values."""

import argparse
import textwrap
from collections.abc import Callable

RECIPE = "a shipped recipe (see `plca recipes`) or a YAML file"
PLACE = "a run, RUN/checkpoints/step-…, or a .safetensors file"
ENDPOINT = "of an S3-compatible server (default: AWS_ENDPOINT_URL)"


class Command(argparse.ArgumentParser):
    """A command's parser, with examples below its options, and more text that is made when somebody asks for it."""

    more: Callable[[], str] | None = None

    def format_help(self) -> str:
        return super().format_help() + (self.more() if self.more else "")


def add_command(
    commands: "argparse._SubParsersAction[Command]", name: str, summary: str, examples: str, text: str = ""
) -> Command:
    lines = "\n".join(f"  {line}" for line in examples.strip().splitlines())
    about = f"{summary[0].upper()}{summary[1:]}."
    return commands.add_parser(
        name,
        help=summary,
        description="\n\n".join(textwrap.fill(part, 98) for part in (about, " ".join(text.split())) if part),
        epilog=f"examples:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--storage", metavar="URI", help="s3://bucket/prefix or a path (default: the recipe's, runs)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one key, e.g. optimizer.lr=0.01; repeatable; `plca recipes --keys` lists all",
    )


def add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="RUN", help=PLACE)
    add_size(parser, "size of the network's input (default: the recipe's; of a file the image's)")
    add_workers(parser)


def add_size(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--size", type=at_least(8), nargs=2, metavar=("H", "W"), help=what)


def add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers", type=at_least(1), default=1, metavar="N", help="processes (default: this one, without a cluster)"
    )
    parser.add_argument("--gpu", action="store_true", help="one GPU for each worker")
    parser.add_argument("--endpoint", metavar="URL", help=ENDPOINT)


def at_least(low: int) -> Callable[[str], int]:
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
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


def ratios(text: str) -> tuple[float, ...]:
    values = tuple(map(ratio, text.split(",")))
    shown = [f"{value:g}" for value in values]
    if twice := [name for name in dict.fromkeys(shown) if shown.count(name) > 1]:
        raise argparse.ArgumentTypeError(f"{', '.join(twice)} is given twice")
    return values
