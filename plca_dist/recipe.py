"""From YAML to settings: shipped files, a person's own, overrides, and errors that name the key and the fix."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from plca_dist.config import Config
from plca_dist.data.label_file import beside, is_file, read_label_set
from plca_dist.data.label_record import record
from plca_dist.errors import UserError, nearest, short
from plca_dist.methods import Method, method, split
from plca_dist.parsing import from_yaml, read_text, settings_text

Model = TypeVar("Model", bound=BaseModel)


def recipes() -> dict[str, Path]:
    """The shipped recipes: name -> file."""
    return by_name(Path(__file__).parent / "recipes")


def by_name(folder: Path) -> dict[str, Path]:
    """The YAML files of a folder: name without suffix -> file, in the order of names."""
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def load(recipe: str, overrides: Sequence[str] = ()) -> Config:
    """The settings of a shipped recipe or a YAML file (a path or a URI), with `a.b=value` overrides.

    `RECIPE/METHOD` is a recipe with the settings of a method (`methods.yaml`), which come before the overrides.

    Raises:
        UserError: unknown recipe or key, wrong type, value out of range; the message names the fix.
    """
    base, chosen = split(recipe)
    before, _, last = recipe.rpartition("/")
    if chosen is None and not Path(recipe).is_file() and (before in recipes() or Path(before).is_file()):
        method(last)  # raises with the nearest: nothing else can be behind a recipe
    text = file_text("recipe", base, recipes())
    return parse(text, overrides, where=recipe, file=base, method=method(chosen) if chosen else None)


def file_text(kind: str, name: str, shipped: Mapping[str, Path]) -> str:
    """The text of a settings file, which is one of `shipped` by its name, or a path, or a URI.

    Args:
        kind: "recipe", say; it opens the errors.

    Raises:
        UserError: no such file, or none of text; the message names the shipped files and the nearest name.
    """
    if "://" in name:
        from plca_dist.storage import Location, file_at  # asyncio, which a shipped or a local file does without

        store, file = file_at(Location(name))
        if not store.exists(file):
            raise UserError(f"{kind} {name} does not exist.")
        return read_text(store, file)
    path = shipped.get(name) or Path(name)
    if not path.exists():
        beside = [p.name for p in path.parent.glob("*.yaml")]
        raise UserError(
            f"{kind} {name!r} does not exist; give a file, or one of the shipped: {', '.join(shipped)}."
            f"{nearest(path.name, [*beside, *shipped])}"
        )
    return settings_text(path, f"{kind} {name!r}")


def parse(
    text: str,
    overrides: Sequence[str] = (),
    where: str = "recipe",
    file: str = "",
    method: Method | None = None,
) -> Config:
    """`load` from YAML text.

    Args:
        where: names it in errors.
        file: place of the recipe. A label-set file that it names lies beside it; one in an override in the working
            directory.
        method: its settings come over those of the text.
    """
    tree = mapping(text, where, "a recipe is a YAML mapping of sections")
    _read_labels(tree, file)
    if method:
        objective = tree.get("objective")
        method.check_over(objective if isinstance(objective, dict) else {}, where)
        tree["about"] = method.about(file, tree.get("about") or {})
        for key, value in method.over(file).items():
            _put(tree, key, value, where)
    for override in overrides:
        _override(tree, override)
    _read_labels(tree, "")
    return checked(Config, tree, where)


def _read_labels(tree: dict[str, Any], file: str) -> None:
    """Put the content of a label-set file in its place: a run has no need of the file any more."""
    place = tree.get("labels")
    if isinstance(place, str) and is_file(place):
        tree["labels"] = record(read_label_set(beside(place, file)), with_coding=False)


def mapping(text: str, where: str, form: str) -> dict[str, Any]:
    """The YAML mapping in `text`. An error cites `form`, which says how such a file looks."""
    tree = from_yaml(text, where)
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
    _read_labels(tree, "")
    return checked(Config, tree, where)


def checked(model: type[Model], tree: Mapping[str, Any], where: str) -> Model:
    """`tree` as a `model`; `where` names it in errors.

    Raises:
        UserError: unknown key, with the nearest known one; wrong type, value out of range.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        known = [*(key for key, _, _ in documented_keys(model)), *model.model_fields]
        raise UserError(f"{where}: {_explain(error, known)}") from error


def keys() -> list[str]:
    """Every dotted key of a recipe, in order."""
    return [key for key, _, _ in documented_keys()]


def documented_keys(model: Any = Config, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """(dotted key, description, default) of every setting of `model`, a pydantic model or dataclass."""
    for name, info in model.__pydantic_fields__.items():
        section = _section(info.annotation)
        if section:
            yield from documented_keys(section, f"{prefix}{name}.")
        else:
            default = None if info.is_required() else info.get_default(call_default_factory=True)
            yield prefix + name, info.description or "", default


def _section(annotation: Any) -> Any:
    """The section that a field holds: `Section`, or `Section | None`; None where it holds a value."""
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    return next((kind for kind in kinds if hasattr(kind, "__pydantic_fields__")), None)


def _override(tree: dict[str, Any], text: str) -> None:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UserError(f"--set {text!r}: write key=value, for instance --set optimizer.lr=0.01.")
    shown = f"--set {text if len(text) <= 80 else text[:80] + '…'!r}"
    _put(tree, key, from_yaml(value, shown), shown)


def _put(tree: dict[str, Any], key: str, value: Any, where: str) -> None:
    node = tree
    *sections, leaf = key.split(".")
    for section in sections:
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            raise UserError(f"{where}: {section!r} is a value, not a section.")
    node[leaf] = value


def unknown_key(key: str, known: Sequence[str]) -> str:
    """The message about a key that is not in `known`. It suggests one with the same last part, or else the nearest."""
    leaves = [k for k in known if k.split(".")[-1] == key.split(".")[-1]]
    return f"unknown key {key!r}." + (f" Did you mean {leaves[0]!r}?" if leaves else nearest(key, known))


def _explain(error: ValidationError, known: Sequence[str]) -> str:
    """One line for the first of pydantic's errors. A misspelt key comes before a missing one, which it may have caused.

    Args:
        known: the keys among which a misspelt one is looked for.
    """
    unknown = ("extra_forbidden", "unexpected_keyword_argument")  # of a model, of a dataclass
    first = min(error.errors(), key=lambda e: e["type"] not in unknown)
    key = ".".join(str(part) for part in first["loc"])
    more = f" ({error.error_count() - 1} more after this one)" if error.error_count() > 1 else ""
    if first["type"] in unknown:
        return f"{unknown_key(key, known)}{more}"
    if first["type"] == "missing":
        return f"{key} is missing{more}."
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(first["input"], dict) else f" = {short(first['input'])}"
    end = "" if message.endswith("?") and not more else "."
    # A message about several keys names these keys itself.
    place = f"{key}{shown}: " if key else ""
    return f"{place}{message[0].lower() + message[1:]}{more}{end}"
