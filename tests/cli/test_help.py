"""Help that reads well and examples that work, and what cannot be parsed."""

import os
import shlex
import subprocess
import sys

import pytest

from plca_dist.cli import main
from plca_dist.cli.parser import build_parser
from plca_dist.methods import PAPER, methods
from plca_dist.recipe import keys, load, recipes
from plca_dist.search.space import load_space, spaces

COMMANDS = (
    "demo", "train", "tune", "evaluate", "predict", "report", "export", "import", "shards", "recipes", "doctor",
)  # fmt: skip


def parsed_examples(text: str) -> list[str]:
    examples = [line.strip() for line in text.splitlines() if line.strip().startswith("plca ")]
    for example in examples:
        for part in example.partition("#")[0].split("&&"):
            build_parser().parse_args(shlex.split(part)[1:])
    return examples


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_has_examples_that_parse(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    examples = parsed_examples(text.partition("examples:\n")[2])
    assert examples
    assert all(example.startswith(f"plca {command}") for example in examples)
    assert "None" not in text


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert f"    {command} " in text


def test_shards_help_lists_every_data_set_with_its_layout(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["shards", "--help"])
    text = capsys.readouterr().out
    for name in ("gta5", "synthia", "cityscapes", "camvid", "folder", "toytown"):
        assert f"\n  {name} " in text
    assert "leftImg8bit/SPLIT/CITY" in text


def test_examples_in_recipes_parse() -> None:
    for name in recipes():
        assert parsed_examples(load(name).about.command)


def test_recipes_lists_all_recipes_and_spaces_with_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    text = capsys.readouterr().out
    for name in recipes():
        about = load(name).about
        assert f"\n{name}: {about.summary}\n" in text
        assert about.cost in text
        assert about.score in text
    for name, method in methods().items():
        assert f"\n{name}: {method.summary}\n" in text
        for recipe in PAPER:
            about = load(f"{recipe}/{name}").about
            assert f"  command  {about.command}\n  score    {about.score}\n" in text
    for name in spaces():
        space = load_space(name).about
        assert f"\n{name}: {space.summary}\n" in text
        assert space.cost in text
    assert main(["recipes", "--keys"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == keys()


@pytest.mark.parametrize(
    "arguments",
    [[], ["trian"], ["train"], ["train", "toytown", "--nmae", "x"], ["demo", "--steps", "0"], ["demo", "--seed", "x"],
     ["demo", "--photographs", "camvid", "idd_lite=x", "--weights", "y"],
     ["evaluate", "run"], ["evaluate", "run", "--data", "x", "--aggregation", "1"], ["shards", "--verify"],
     ["predict", "run", "--images", "x", "--out", "y", "--size", "4", "8"]],
)  # fmt: skip
def test_what_cannot_be_parsed_ends_with_2_and_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: plca")
    assert "error: " in err


def test_a_reader_that_leaves_early_is_no_error() -> None:
    """`plca recipes | head -1`, with the reader gone before the first line."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "plca_dist.cli", "recipes"], stdout=writer, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")
