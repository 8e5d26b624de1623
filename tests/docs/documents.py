"""What stands in the project's documents: fenced blocks, the commands in them, and how to execute one.

Convention, which the documents follow:

    ```sh           executed by the suite, block after block, in a scratch directory of the document's own
    ```sh slow      executed as well, by tests marked slow
    ```sh needs …   not executed; the words say what is missing here. `plca …` in it must parse
    ```yaml         written to the file that a comment in its first line names, where there is one
    ```python       executed, block after block; marks as of `sh`, and among its blocks where it is slow

Trainings are cut to a few steps (`shortened`); nothing else is changed.
"""

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from plca_dist.cli import main

ROOT = Path(__file__).parents[2]
#: Written for people who run clusters: every command in it needs one.
CLUSTER = sorted((ROOT / "cluster").rglob("README.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "plca_dist/ops/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
STEPS = 2

_FENCE = re.compile(r"^```(?P<info>[^`\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(plca(?: [^`]*)?)`")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, what else stands behind the fence, and the text."""

    language: str
    mark: str
    text: str

    @property
    def file(self) -> str:
        """The file that a comment in the first line names, of a YAML block; "unnamed.yaml" where there is none."""
        first = self.text.partition("\n")[0]
        return first.split()[1] if first.startswith("# ") else "unnamed.yaml"

    @property
    def commands(self) -> list[str]:
        """Of a shell block: one a line, continued lines joined, comments left out, `a && b` as two."""
        lines = self.text.replace("\\\n", " ").splitlines()
        parts = [part for line in lines for part in _without_comment(line).split("&&")]
        return [" ".join(part.split()) for part in parts if part.strip()]


def blocks(text: str) -> list[Block]:
    found = []
    for fence in _FENCE.finditer(text):
        language, _, mark = fence["info"].strip().partition(" ")
        found.append(Block(language, mark, fence["text"]))
    return found


def outside(text: str) -> str:
    """The document without its fenced blocks."""
    return _FENCE.sub("", text)


def inline(text: str) -> list[str]:
    """`plca …` in the running text and in tables, as typed."""
    return [" ".join(command.split()) for command in _INLINE.findall(outside(text))]


def _without_comment(line: str) -> str:
    quoted = False
    for n, character in enumerate(line):
        if character in "'\"":
            quoted = not quoted
        if character == "#" and not quoted and (n == 0 or line[n - 1].isspace()):
            return line[:n]
    return line


def arguments(command: str) -> list[str]:
    """What is typed behind `plca`."""
    name, *rest = shlex.split(command)
    assert name == "plca", command
    return rest


def shortened(typed: list[str]) -> list[str]:
    """A training of STEPS steps in place of the whole one, unless the document itself says how many."""
    if typed[0] == "train" and not any(word.startswith("schedule.steps=") for word in typed):
        return [*typed, "--set", f"schedule.steps={STEPS}"]
    if typed[0] == "demo" and "--steps" not in typed:
        return [*typed, "--steps", str(STEPS)]
    return typed


def expanded(command: str) -> list[str]:
    """`make TARGET` as the `plca …` that it would start; anything else as it is."""
    if not command.startswith("make "):
        return [command]
    dry = subprocess.run(["make", "-n", "-C", ROOT, *command.split()[1:]], capture_output=True, text=True, check=True)
    return [f"plca {line.partition('/plca ')[2]}" for line in dry.stdout.splitlines() if "/plca " in line]


def execute(command: str) -> None:
    """Run one command in the working directory."""
    if command.startswith("plca "):
        assert main(shortened(arguments(command))) == 0, command
    else:
        subprocess.run(["bash", "-euc", command], check=True)
