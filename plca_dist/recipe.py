"""From YAML to settings: shipped recipes, files, overrides, and errors that name the key and the fix."""

from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from plca_dist.config import Config
from plca_dist.errors import UserError, nearest
from plca_dist.storage import file_at


def recipes() -> dict[str, Path]:
    """The shipped recipes: name -> file."""
    folder = Path(str(resources.files("plca_dist") / "recipes"))
    return {p.stem: p for p in sorted(folder.glob("*.yaml"))}


def load(recipe: str, overrides: Sequence[str] = ()) -> Config:
    """The settings of a shipped recipe or a YAML file (a path or a URI), with `a.b=value` overrides.

    Raises:
        UserError: unknown recipe or key, wrong type, value out of range; the message names the fix.
    """
    return parse(_text(recipe), overrides, where=recipe)


def _text(recipe: str) -> str:
    if "://" in recipe:
        store, name = file_at(recipe)
        if not store.exists(name):
            raise UserError(f"recipe {recipe} does not exist.")
        return store.read(name).decode()
    path = recipes().get(recipe, Path(recipe))
    if not path.is_file():
        raise UserError(
            f"recipe {recipe!r} is neither a file nor shipped; "
            f"shipped: {', '.join(recipes())}.{nearest(recipe, recipes())}"
        )
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {recipe!r} is no readable text file ({error}).") from error


def parse(text: str, overrides: Sequence[str] = (), where: str = "recipe") -> Config:
    """`load` from YAML text; `where` names it in errors."""
    tree = mapping(text, where, "a recipe is a YAML mapping of sections")
    for override in overrides:
        _override(tree, override)
    return _checked(tree, where)


def mapping(text: str, where: str, form: str) -> dict[str, Any]:
    """The YAML mapping that `text` is; `form` says in the error what it should have been."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{where}: {form}; got {type(tree).__name__}.")
    return tree


def changed(config: Config, settings: Mapping[str, Any], where: str = "recipe") -> Config:
    """`config` with other values for some dotted keys, checked as a whole; `where` names it in errors.

    Raises:
        UserError: unknown key, wrong type, value out of range, values that do not go together.
    """
    tree = config.model_dump()
    for key, value in settings.items():
        _put(tree, key, value, where)
    return _checked(tree, where)


def _checked(tree: dict[str, Any], where: str) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, [*keys(), *Config.model_fields])}") from error


def keys() -> list[str]:
    """Every dotted key of the tree, in order."""
    return [key for key, _, _ in documented_keys()]


def documented_keys(model: type[Any] = Config, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """(dotted key, description, default) of every setting."""
    for name, info in model.__pydantic_fields__.items():
        kind = info.annotation
        if hasattr(kind, "__pydantic_fields__"):
            yield from documented_keys(kind, f"{prefix}{name}.")
        else:
            yield (
                prefix + name,
                info.description or "",
                None if info.is_required() else info.get_default(call_default_factory=True),
            )


def _override(tree: dict[str, Any], text: str) -> None:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UserError(f"--set {text!r}: write key=value, for instance --set optimizer.lr=0.01.")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text!r}: the value is not valid YAML: {error}") from error
    _put(tree, key, parsed, f"--set {text!r}")


def _put(tree: dict[str, Any], key: str, value: Any, where: str) -> None:
    node = tree
    *sections, leaf = key.split(".")
    for section in sections:
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            raise UserError(f"{where}: {section!r} is a value, not a section.")
    node[leaf] = value


def unknown_key(key: str, known: Sequence[str]) -> str:
    """What to say of a key that is none of `known`: the one that ends alike, or else the nearest."""
    leaves = [k for k in known if k.split(".")[-1] == key.split(".")[-1]]
    return f"unknown key {key!r}." + (f" Did you mean {leaves[0]!r}?" if leaves else nearest(key, known))


def explain(error: ValidationError, known: Sequence[str]) -> str:
    """One line for the first of pydantic's errors, but a misspelt key (of `known`) before what is missing for it."""
    unknown = ("extra_forbidden", "unexpected_keyword_argument")  # of a model, of a dataclass
    first = min(error.errors(), key=lambda e: e["type"] not in unknown)
    key = ".".join(str(part) for part in first["loc"])
    more = f" ({error.error_count() - 1} more after this one)" if error.error_count() > 1 else ""
    if first["type"] in unknown:
        return f"{unknown_key(key, known)}{more}"
    if first["type"] == "missing":
        return f"{key} is missing{more}."
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(first["input"], dict) else f" = {first['input']!r}"
    end = "" if message.endswith("?") and not more else "."
    # What concerns several keys names them itself.
    place = f"{key}{shown}: " if key else ""
    return f"{place}{message[0].lower() + message[1:]}{more}{end}"
