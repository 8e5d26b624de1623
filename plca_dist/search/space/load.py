"""Reads a space from YAML. Errors name the key and the fix."""

from pathlib import Path

from pydantic import ValidationError

from plca_dist.errors import UserError, nearest
from plca_dist.recipe import documented_keys, explain, mapping
from plca_dist.search.space.sections import Asha, Median
from plca_dist.search.space.space import Space


def load_space(path: Path | str) -> Space:
    """The space of a YAML file.

    Raises:
        UserError: no such file, unknown key, empty range, settings that do not go together; the message names the fix.
    """
    path = Path(path)
    if not path.is_file():
        others = [str(p) for p in sorted(path.parent.glob("*.yaml"))]
        raise UserError(f"space file {str(path)!r} does not exist.{nearest(str(path), others)}")
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"space file {str(path)!r} is no readable text file ({error}).") from error
    return parse_space(text, str(path))


def parse_space(text: str, where: str = "space") -> Space:
    """`load_space` from YAML text; `where` names it in errors."""
    tree = mapping(text, where, "a space is a YAML mapping")
    try:
        return Space.model_validate(tree)
    except ValidationError as error:
        known = [*Space.model_fields, *(key for key, _, _ in documented_keys(Space))]
        for name, kind in (("asha", Asha), ("median", Median)):
            known += [key for key, _, _ in documented_keys(kind, f"scheduler.{name}.")]
        raise UserError(f"{where}: {explain(error, known)}") from error
