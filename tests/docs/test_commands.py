"""Every command and snippet in README and docs works, or says what it would need; see `documents`."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from plca_dist.cli.parser import build_parser
from plca_dist.data.label_file import read_label_set
from plca_dist.recipe import load
from tests.docs.documents import CLUSTER, DOCUMENTS, ROOT, arguments, blocks, execute, expanded, inline, outside

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
every_text = pytest.mark.parametrize("document", [*DOCUMENTS, *CLUSTER], ids=lambda path: str(path.relative_to(ROOT)))
LANGUAGES = ("sh", "python", "yaml", "text")
#: What a line of a command starts with.
COMMAND = re.compile(r"^(plca|make|python|pip|sbatch|kubectl|ray|tensorboard|aws|export) ")


def having(language: str, *marks: str) -> pytest.MarkDecorator:
    """Those documents that have such a block."""
    chosen = [p for p in DOCUMENTS if any(b.language == language and b.mark in marks for b in blocks(p.read_text()))]
    return pytest.mark.parametrize("document", chosen, ids=lambda path: str(path.relative_to(ROOT)))


@every_document
def test_blocks_say_what_they_are(document: Path) -> None:
    text = document.read_text()
    for block in blocks(text):
        assert block.language in LANGUAGES, f"{block.language!r}: {block.text}"
        if block.language in ("sh", "python"):
            assert block.mark in ("", "slow") or re.fullmatch(r"needs \w.*", block.mark), block.mark
        if block.language == "sh":
            assert block.commands, block.text
        elif block.language == "text":
            assert not [line for line in block.text.splitlines() if COMMAND.match(line)], block.text
    hidden = [line for line in outside(text).splitlines() if line.startswith("    ") and COMMAND.match(line.strip())]
    assert not hidden, "commands in indented blocks are not looked at: fence them"


@every_text
def test_commands_that_are_not_executed_parse(document: Path) -> None:
    text = document.read_text()
    commands = [c for b in blocks(text) if b.language == "sh" and b.mark.startswith("needs") for c in b.commands]
    if document in CLUSTER:
        commands = [line.strip() for line in text.splitlines() if line.startswith("    plca ")]
    for command in commands:
        if command.startswith("plca "):
            build_parser().parse_args(arguments(command))
        elif command.startswith("python -m benchmarks."):
            assert (ROOT / f"{command.split()[2].replace('.', '/')}.py").is_file(), command
        elif command.startswith("python "):
            assert (ROOT / command.split()[1]).is_file(), command


@every_text
def test_commands_in_the_text_name_what_exists(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`plca COMMAND … --option` in a sentence: the command is known, and so is the option."""
    for command in inline(document.read_text()):
        words = command.split()[1:]
        if not words or not words[0].isalpha() or words[0].isupper():
            continue  # plca itself, `plca …`, `plca COMMAND --help`
        with pytest.raises(SystemExit) as left:
            build_parser().parse_args([words[0], "--help"])
        assert left.value.code == 0, command
        known = capsys.readouterr().out
        for option in [w for w in words if w.startswith("--")]:
            assert option in re.findall(r"--[\w-]+", known), command


@every_text
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", outside(document.read_text())):
        assert "://" in target or (document.parent / target).exists(), target


def test_every_command_is_shown_somewhere() -> None:
    typed = [c for path in DOCUMENTS for b in blocks(path.read_text()) if b.language == "sh" for c in b.commands]
    shown = {c.split()[1] for command in typed for c in expanded(command) if c.startswith("plca ")}
    (known,) = (action.choices for action in build_parser()._actions if action.dest == "command")
    assert shown == set(known)


@having("yaml", "")
def test_yaml_is_valid_and_recipes_are_recipes(document: Path, tmp_path: Path) -> None:
    found = [b for b in blocks(document.read_text()) if b.language == "yaml"]
    for block in found:
        (tmp_path / block.file).write_text(block.text)
    for block in found:
        keys = set(yaml.safe_load(block.text))
        if {"source", "target"} <= keys:
            load(str(tmp_path / block.file))
        if "classes" in keys:
            read_label_set(str(tmp_path / block.file))


@having("python", "")
def test_snippets_run(document: Path) -> None:
    run(document, "python", "")


@having("sh", "")
@pytest.mark.usefixtures("ray_session", "s3")
def test_commands_work(document: Path, scratch: Callable[[Path], None]) -> None:
    scratch(document)
    run(document, "sh", "")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@having("sh", "slow")
@pytest.mark.usefixtures("ray_session", "s3")
def test_slow_commands_work(document: Path, scratch: Callable[[Path], None]) -> None:
    scratch(document)
    run(document, "sh python", "", "slow")


def run(document: Path, languages: str, *marks: str) -> None:
    names: dict[str, object] = {}
    for block in [b for b in blocks(document.read_text()) if b.language in languages.split() and b.mark in marks]:
        if block.language == "python":
            exec(compile(block.text, str(document), "exec"), names)
            continue
        for command in block.commands:
            for each in expanded(command):
                execute(each)
