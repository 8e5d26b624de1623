"""Reads a space from YAML. Errors name the key and the fix."""

from pathlib import Path

from plca_dist.recipe import by_name, checked, file_text, mapping
from plca_dist.search.space.space import Space


def spaces() -> dict[str, Path]:
    """The shipped space files: name -> file. Their folder lies beside the package, in a checkout and installed."""
    return by_name(Path(__file__).parents[3] / "tune_spaces")


def load_space(space: Path | str) -> Space:
    """The space of a shipped file, by its name, or of a YAML file, by its path or URI.

    Raises:
        UserError: no such file, unknown key, empty range, settings that do not go together; the message names the fix.
    """
    return parse_space(file_text("space", str(space), spaces()), str(space))


def parse_space(text: str, where: str = "space") -> Space:
    """`load_space` from YAML text; `where` names it in errors."""
    return checked(Space, mapping(text, where, "a space is a YAML mapping"), where)
