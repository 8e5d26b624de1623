"""Label-set files: YAML -> `LabelSet`.

    name: my_classes                  # default: the file's name
    coding: index                     # how raw labels are written: index (default), red or colour
    classes:
      - {name: road, colour: [128, 64, 128], values: [0, 7-10]}
      - {name: car, colour: "#00008e", values: 1, same_as: [automobile], merges: [truck, bus]}
    ignore: [255]                     # raw values without a class
    means: {both: [road, car]}        # averages over some of the classes
    groups: {things: [car]}           # classes that are also scored as one

Only `classes` is needed; a class may be its name alone. Without `values` the classes count from 0. Codes of `colour`
are the classes' own colours, or `colours`. In place of a list, `classes` may name another label set, whose classes
these are; `values` or `colours` then map its classes to their codes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plca_dist.data import codes
from plca_dist.data.coding import FORMS, IGNORE, MOST_CLASSES, Coding
from plca_dist.data.labels import CODINGS, LABEL_SETS, Colour, LabelSet
from plca_dist.errors import UserError, nearest, short, some
from plca_dist.parsing import from_yaml, read_text, settings_text

_KEYS = ("name", "coding", "classes", "values", "colours", "ignore", "means", "groups")
#: Of files each of which has the classes of the next.
_DEPTH = 4
_CLASS_KEYS = ("name", "colour", "values", "colours", "same_as", "merges")


def is_file(place: str) -> bool:
    """Whether a label set is given by a file's path or URI, and not by the name of a shipped one."""
    return place.endswith((".yaml", ".yml")) or "/" in place


def beside(place: str, other: str) -> str:
    """`place` as seen from the file `other`, unless it is a URI, absolute, or no file."""
    if "://" in place or place.startswith("/") or not is_file(place):
        return place
    folder = other.rpartition("/")[0]
    return f"{folder}/{place}" if folder else place


def find_label_set(place: str, depth: int = 0) -> LabelSet:
    """The label set of a file, or of a shipped set or coding. Raises UserError naming the shipped ones."""
    if is_file(place):
        return read_label_set(place, depth)
    known = {**dict.fromkeys(LABEL_SETS, LABEL_SETS), **dict.fromkeys(CODINGS, CODINGS)}
    if place not in known:
        raise UserError(
            f"label set {place!r} is unknown; give a .yaml file or one of {', '.join(known)}.{nearest(place, known)}"
        )
    return known[place][place]


def read_label_set(place: str, depth: int = 0) -> LabelSet:
    """The label set in a YAML file, a path or a URI. `depth`: of files that name this one for their classes.

    Raises UserError in one line for anything that is not as the head of this module says: an unknown key, a class that
    is given twice, colours for some classes alone, a code of two classes, more than 254 classes.
    """
    if "://" in place:
        from plca_dist.storage import Location, file_at  # asyncio, which a local file does without

        store, file = file_at(Location(place))
        if not store.exists(file):
            raise UserError(f"label set {place} does not exist.")
        text = read_text(store, file)
    else:
        path = Path(place).expanduser()
        if not path.exists():
            names = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
            raise UserError(f"label set {place} does not exist.{nearest(path.name, names)}")
        text = settings_text(path, f"label set {place}")
    return label_set_from(from_yaml(text, place), place, depth)


def label_set_from(tree: Any, where: str, depth: int = 0) -> LabelSet:
    """`read_label_set` of a file's content; `where` is its place."""
    if not isinstance(tree, Mapping) or "classes" not in tree:
        raise UserError(f"{where}: a label set is a YAML mapping with a list of classes; got {short(tree)}.")
    _known(tree, _KEYS, where)
    name = tree.get("name", where.rpartition("/")[2].rpartition(".")[0] or where)
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}: name {short(name)} is no text.")
    form = tree.get("coding", "index")
    if form not in FORMS:
        raise UserError(f"{where}: coding {short(form)}: give one of {', '.join(FORMS)}.{nearest(str(form), FORMS)}")
    if isinstance(tree["classes"], str):
        return _coded_otherwise(tree, form, where, depth)
    if stray := [key for key in ("values", "colours") if key in tree]:
        raise UserError(f"{where}: write {stray[0]} with each class; here it goes with classes of another label set.")
    entries = [_class(entry, where) for entry in _list(tree["classes"], "classes", where)]
    names = tuple(entry["name"] for entry in entries)
    _check_names(names, where)
    same_as = {e["name"]: _names(e["same_as"], f"{where}: same_as", None) for e in entries if "same_as" in e}
    merges = {e["name"]: _names(e["merges"], f"{where}: merges", None) for e in entries if "merges" in e}
    _check_synonyms(names, same_as, merges, where)
    return LabelSet(
        name,
        names,
        palette=_palette(entries, where),
        means=_subsets(tree.get("means", {}), names, f"{where}: means"),
        groups=_subsets(tree.get("groups", {}), names, f"{where}: groups"),
        same_as=same_as,
        merges=merges,
        coding=_coding(form, entries, tree.get("ignore"), where),
    )


def _coded_otherwise(tree: Mapping[str, Any], form: str, where: str, depth: int) -> LabelSet:
    """Classes of another set with codes of their own."""
    if depth > _DEPTH:
        raise UserError(f"{where}: its classes are those of {tree['classes']}, and so on without end; list them.")
    base = find_label_set(beside(tree["classes"], where), depth + 1)
    if stray := [key for key in ("means", "groups") if key in tree]:
        raise UserError(f"{where}: {stray[0]} belong to the label set {tree['classes']}, whose classes these are.")
    key = "colours" if form == "colour" else "values"
    _known(tree, ("name", "coding", "classes", key, "ignore"), where)
    given = tree.get(key, {})
    if not isinstance(given, Mapping):
        raise UserError(f"{where}: {key} {short(given)} is no mapping of classes to their codes.")
    for name in given:
        if name not in base.classes:
            raise UserError(
                f"{where}: {key}: {short(name)} is no class of {tree['classes']}.{nearest(str(name), base.classes)}"
            )
    entries: list[dict[str, Any]] = [
        {"name": name, "colour": colour, **({key: given.get(name, [])} if given else {})}
        for name, colour in zip(base.classes, base.palette, strict=True)
    ]
    coding = _coding(form, entries, tree.get("ignore"), where)
    return LabelSet(**{**vars(base), "name": tree.get("name", base.name), "coding": coding})


def _class(entry: Any, where: str) -> dict[str, Any]:
    entry = {"name": entry} if not isinstance(entry, Mapping) else dict(entry)
    if not isinstance(entry.get("name"), str) or not entry["name"].strip():
        raise UserError(f"{where}: class {short(entry.get('name'))} has no name of text; write it in quotes.")
    _known(entry, _CLASS_KEYS, f"{where}: class {entry['name']!r}")
    return entry


def _check_names(names: Sequence[str], where: str) -> None:
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise UserError(f"{where}: class {some(twice)} is given twice.")
    if not 2 <= len(names) <= MOST_CLASSES:
        why = (
            "a label is one byte, and 254 and 255 stand for no class" if names[1:] else "there is nothing to tell apart"
        )
        raise UserError(f"{where}: it has {len(names)} classes, and can have 2 to {MOST_CLASSES}: {why}.")


def _check_synonyms(
    names: Sequence[str], same_as: Mapping[str, Sequence[str]], merges: Mapping[str, Sequence[str]], where: str
) -> None:
    taken = {name: name for name in names}
    for key, of in (("same_as", same_as), ("merges", merges)):
        for name, others in of.items():
            for other in others:
                if other in taken:
                    raise UserError(
                        f"{where}: class {name!r}: {key} {other!r}, which is {taken[other]!r} already; a class of "
                        "another set can become one class."
                    )
                taken[other] = name


def _palette(entries: Sequence[Mapping[str, Any]], where: str) -> tuple[Colour, ...]:
    """The classes' colours; drawn where no class has one."""
    without = [entry["name"] for entry in entries if "colour" not in entry]
    if not without:
        return tuple(codes.colour(e["colour"], f"{where}: class {e['name']!r}") for e in entries)
    if len(without) < len(entries):
        given = len(entries) - len(without)
        raise UserError(
            f"{where}: {given} colours for {len(entries)} classes: {some(without)} without; give each one, or none."
        )
    return codes.drawn_palette(len(entries))


def _coding(form: str, entries: Sequence[Mapping[str, Any]], ignore: Any, where: str) -> Coding:
    key, other = ("colours", "values") if form == "colour" else ("values", "colours")
    if stray := [entry["name"] for entry in entries if other in entry]:
        fix = "coding: colour" if other == "colours" else "coding: index, or colours in their place"
        raise UserError(f"{where}: class {stray[0]!r} has {other}, which coding {form!r} does not read; write {fix}.")
    if form == "colour":
        if without := [e["name"] for e in entries if "colours" not in e and "colour" not in e]:
            raise UserError(f"{where}: coding 'colour' needs the colour of each class; {some(without)} without.")
        given = [codes.colours(e.get(key, [e.get("colour")]), f"{where}: class {e['name']!r}") for e in entries]
        ignored = codes.colours([] if ignore is None else ignore, f"{where}: ignore")
    else:
        if 0 < len(without := [e["name"] for e in entries if key not in e]) < len(entries):
            raise UserError(f"{where}: {some(without)} without {key}, which others have; [] says that none are.")
        given = [codes.numbers(e.get(key, [i]), f"{where}: class {e['name']!r}") for i, e in enumerate(entries)]
        unused = [] if any(IGNORE in of for of in given) else [IGNORE]
        ignored = codes.numbers(unused if ignore is None else ignore, f"{where}: ignore")
    coding = Coding(form, tuple(given), ignored)
    owner: dict[int, str] = {}
    for name, of in [*zip((e["name"] for e in entries), given, strict=True), ("ignore", ignored)]:
        for code in of:
            if code in owner:
                both = f"{owner[code]!r} and {name!r}" if owner[code] != name else f"{name!r} twice"
                raise UserError(
                    f"{where}: {coding.things[:-1]} {coding.text([code])} is of {both}; a code has one class."
                )
            owner[code] = name
    return coding


def _subsets(tree: Any, names: Sequence[str], where: str) -> dict[str, tuple[int, ...]]:
    if not isinstance(tree, Mapping) or not all(isinstance(name, str) for name in tree):
        raise UserError(f"{where} {short(tree)} is no mapping of names to lists of classes.")
    if "mIoU" in tree:
        raise UserError(f"{where}: 'mIoU' is the mean over all classes; give it another name.")
    return {key: tuple(names.index(n) for n in _names(of, f"{where}: {key}", names)) for key, of in tree.items()}


def _names(value: Any, where: str, known: Sequence[str] | None) -> tuple[str, ...]:
    found = tuple(_list([value] if isinstance(value, str) else value, "names", where))
    for name in found:
        if not isinstance(name, str):
            raise UserError(f"{where}: {short(name)} is no class name; write it in quotes.")
        if known is not None and name not in known:
            raise UserError(f"{where}: {name!r} is no class of this set.{nearest(name, known)}")
    if len(set(found)) < len(found):
        raise UserError(f"{where}: a class is given twice.")
    return found


def _list(value: Any, what: str, where: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple) or not value:
        raise UserError(f"{where}: {what} {short(value)} is no list with entries.")
    return value


def _known(tree: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in tree:
        if key not in keys:
            raise UserError(f"{where}: unknown key {short(key)}; known: {', '.join(keys)}.{nearest(str(key), keys)}")
