"""Label-set files: what they may say, and the line that refuses what they may not."""

from pathlib import Path

import pytest

from plca_dist.data.codes import drawn_palette
from plca_dist.data.coding import MOST_CLASSES
from plca_dist.data.label_file import find_label_set, label_set_from, read_label_set
from plca_dist.data.label_record import of_record, own_record, record
from plca_dist.data.labels import CODINGS, LABEL_SETS, LabelSet
from plca_dist.errors import UserError
from plca_dist.parsing import from_yaml
from plca_dist.recipe import load, parse
from plca_dist.storage import resolve

MINE = """
classes:
  - {name: drivable, colour: [128, 64, 128], values: [0, 7-9], same_as: road, merges: [parking, "ground"]}
  - {name: other, colour: "#00008e", values: 1}
ignore: [254-255]
means: {ways: [drivable]}
groups: {all: [drivable, other]}
"""


def from_text(text: str) -> LabelSet:
    return label_set_from(from_yaml(text, "mine.yaml"), "sets/mine.yaml")


def test_a_file_says_names_colours_codes_and_what_else_there_is() -> None:
    labels = from_text(MINE)
    assert (labels.name, labels.classes) == ("mine", ("drivable", "other"))
    assert labels.palette == ((128, 64, 128), (0, 0, 142))
    assert (labels.means, labels.groups) == ({"ways": (0,)}, {"all": (0, 1)})
    assert (labels.same_as, labels.merges) == ({"drivable": ("road",)}, {"drivable": ("parking", "ground")})
    assert labels.coding is not None
    assert (labels.coding.form, labels.coding.codes) == ("index", ((0, 7, 8, 9), (1,)))
    assert labels.coding.ignored == (254, 255)


def test_names_alone_are_enough() -> None:
    labels = from_text("classes: [sky, road, car]")
    assert labels.coding == LabelSet("", ("a", "b", "c"), (), coding=from_text("classes: [a, b, c]").coding).coding
    assert labels.coding is not None
    assert (labels.coding.codes, labels.coding.ignored) == (((0,), (1,), (2,)), (255,))
    assert len(set(labels.palette)) == 3


def test_drawn_colours_differ() -> None:
    palette = drawn_palette(MOST_CLASSES)
    assert len({*palette, (0, 0, 0), (255, 255, 255)}) == MOST_CLASSES + 2
    assert drawn_palette(5) == palette[:5]


def test_colours_of_classes_are_their_codes() -> None:
    labels = from_text('coding: colour\nclasses: [{name: a, colour: "#ffffff"}, {name: b, colour: [0, 0, 0]}]')
    assert labels.coding is not None
    assert (labels.coding.codes, labels.coding.ignored) == (((0xFFFFFF,), (0,)), ())
    one = "{name: a, colour: [1, 1, 1], colours: [9, 9, 9]}"
    other = '{name: b, colour: [1, 1, 2], colours: [[3, 0, 0], "#040000"]}'
    labels = from_text(f"coding: colour\nclasses: [{one}, {other}]\nignore: [0, 0, 0]")
    assert labels.coding is not None
    assert (labels.coding.codes, labels.coding.ignored) == (((0x090909,), (0x030000, 0x040000)), (0,))


def test_a_class_at_255_is_not_ignored() -> None:
    labels = from_text("classes: [{name: background, values: 0}, {name: road, values: 255}]")
    assert labels.coding is not None
    assert (labels.coding.codes, labels.coding.ignored) == (((0,), (255,)), ())


@pytest.mark.parametrize("kind", [LABEL_SETS, CODINGS], ids=["sets", "codings"])
def test_records_are_the_whole_of_a_set(kind: dict[str, LabelSet]) -> None:
    for labels in kind.values():
        assert of_record(record(labels), "here") == labels
        assert own_record(labels) is None, "a shipped set is its name"
    mine = from_text(MINE)
    assert of_record(record(mine), "here") == mine
    assert own_record(mine) == record(mine, with_coding=False)


def test_classes_of_another_set_with_codes_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "seven.yaml").write_text("classes: [a, b, c]\nmeans: {two: [a, b]}")
    (tmp_path / "coded.yaml").write_text("classes: seven.yaml\nvalues: {a: [1, 2], c: 0-0}\nignore: 3")
    seven, coded = (read_label_set(str(tmp_path / name)) for name in ("seven.yaml", "coded.yaml"))
    assert coded.coding is not None
    assert (coded.coding.codes, coded.coding.ignored) == (((1, 2), (), (0,)), (3,))
    assert (coded.name, coded.palette, coded.means) == ("seven", seven.palette, seven.means)
    assert find_label_set("gta5").classes == LABEL_SETS["cityscapes"].classes
    (tmp_path / "a.yaml").write_text("classes: b.yaml")
    (tmp_path / "b.yaml").write_text("classes: a.yaml")
    with pytest.raises(UserError, match=r"its classes are those of [ab]\.yaml, and so on without end; list them\.$"):
        read_label_set(str(tmp_path / "a.yaml"))


MANY = ", ".join(f"c{i}" for i in range(255))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("classes: [a, b, a]", "class a is given twice."),
        ("classes: [{name: a, colour: [1, 2, 3]}, b, c]", "1 colours for 3 classes: b, c without; give each one, or"),
        ("classes: [{name: a, values: 0-3}, {name: b, values: 3}]", "value 3 is of 'a' and 'b'; a code has one class."),
        (
            "classes: [{name: a, values: 0}, {name: b, values: [1, 1]}]",
            "value 1 is of 'b' twice; a code has one class.",
        ),
        ("classes: [a, b]\nignore: [1]", "value 1 is of 'b' and 'ignore'; a code has one class."),
        (
            'coding: colour\nclasses: [{name: a, colour: [0, 0, 1]}, {name: b, colour: "#000001"}]',
            "colour #000001 is of 'a' and 'b'; a code has one class.",
        ),
        ("coding: colour\nclasses: [a, b]", "coding 'colour' needs the colour of each class; a, b without."),
        ("coding: color\nclasses: [a, b]", "coding 'color': give one of index, red, colour. Did you mean 'colour'?"),
        (f"classes: [{MANY}]", "it has 255 classes, and can have 2 to 254: a label is one byte, and 254 and 255 stand"),
        ("classes: [a]", "it has 1 classes, and can have 2 to 254: there is nothing to tell apart."),
        ("classes: []", "classes [] is no list with entries."),
        ("- a\n- b", "a label set is a YAML mapping with a list of classes; got ['a', 'b']."),
        ("clases: [a, b]", "a label set is a YAML mapping with a list of classes; got {'clases': ['a', 'b']}."),
        ("classes: [a, b]\nmeens: {}", "unknown key 'meens'; known: name, coding, classes, values, colours, ignore, "),
        (
            "classes: [a, {name: b, color: red}]",
            "class 'b': unknown key 'color'; known: name, colour, values, colours, ",
        ),
        ("classes: [yes, no]", "class True has no name of text; write it in quotes."),
        ("classes: [{name: a, colour: red}, b]", "1 colours for 2 classes"),
        ("classes: [{name: a, colour: red}]", "it has 1 classes"),
        (
            "classes: [{name: a, colour: red}, {name: b, colour: red}]",
            "class 'a': colour 'red': give [red, green, blue], each from 0 to 255, or \"#rrggbb\".",
        ),
        (
            "classes: [{name: a, values: 3-1}, {name: b, values: 9}]",
            "class 'a': value '3-1': give whole numbers from 0 ",
        ),
        (
            "classes: [{name: a, values: 70000}, {name: b, values: 9}]",
            "class 'a': value 70000: give whole numbers from",
        ),
        ("classes: [{name: a, values: 1}, b]", "b without values, which others have; [] says that none are."),
        (
            "classes: [{name: a, colours: [1, 1, 1]}, b]",
            "class 'a' has colours, which coding 'index' does not read; writ",
        ),
        (
            "classes: [a, {name: b, same_as: a}]",
            "class 'b': same_as 'a', which is 'a' already; a class of another set ",
        ),
        ("classes: [a, b]\nmeans: {x: [a, c]}", "means: x: 'c' is no class of this set."),
        ("classes: [a, b]\nmeans: {mIoU: [a]}", "means: 'mIoU' is the mean over all classes; give it another name."),
        ("classes: cityscapes\nvalues: {raod: 1}", "values: 'raod' is no class of cityscapes. Did you mean 'road'?"),
        ("classes: citiscapes", "label set 'citiscapes' is unknown; give a .yaml file or one of "),
        (
            "classes: cityscapes\nmeans: {a: [road]}",
            "means belong to the label set cityscapes, whose classes these are.",
        ),
    ],
)
def test_what_a_file_may_not_say_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        from_text(text)
    line = str(caught.value).removeprefix("sets/mine.yaml: ")
    assert line.startswith(said)
    assert "\n" not in line


def test_a_key_that_is_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match=r"mine\.yaml: not valid YAML: line 2 gives 'classes' once more$"):
        from_text("classes: [a, b]\nclasses: [c, d]")
    with pytest.raises(UserError, match=r"not valid YAML: line 1 gives 'a' once more$"):
        from_text("{classes: cityscapes, values: {a: 1, a: 2}}")


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("classes: [a, b]")
    with pytest.raises(UserError, match=r"label set .*/mina\.yaml does not exist\. Did you mean 'mine\.yaml'\?$"):
        read_label_set(str(tmp_path / "mina.yaml"))
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is no readable text file"):
        read_label_set(str(tmp_path / "mine.yaml"))


RECIPE = """
labels: {labels}
source: {{uri: a, crop: [16, 16]}}
target: {{uri: b, crop: [16, 16]}}
schedule: {{steps: 10}}
"""


def test_a_recipe_takes_a_file_and_keeps_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/mine.yaml").write_text(MINE)
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(labels="recipes/mine.yaml"))
    config = load(str(tmp_path / "recipe.yaml"))
    assert config.label_set.classes == ("drivable", "other")
    (tmp_path / "recipes/mine.yaml").rename(tmp_path / "other.yaml")
    assert parse(config.to_yaml()) == config
    assert parse(config.to_yaml()).label_set == config.label_set
    monkeypatch.chdir(tmp_path)
    overridden = parse(RECIPE.format(labels="cityscapes"), ["labels=other.yaml"])
    assert overridden.label_set.classes == config.label_set.classes
    assert overridden.fingerprint() == config.fingerprint(), "the file's name decides no result"


def test_identity_is_names_and_synonyms_and_not_colours() -> None:
    def fingerprint(labels: str) -> str:
        return parse(RECIPE.format(labels=labels)).fingerprint()

    plain = fingerprint("{classes: [a, b]}")
    assert plain == fingerprint("{classes: [{name: a, colour: [1, 2, 3]}, {name: b, colour: [3, 2, 1]}], name: x}")
    assert plain == fingerprint("{classes: [a, b], means: {one: [a]}}")
    others = ["{classes: [b, a]}", "{classes: [a, b, c]}", "{classes: [a, {name: b, merges: c}]}"]
    assert len({plain, *map(fingerprint, others)}) == 4


def test_bad_labels_in_a_recipe_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^recipe: labels: class a is given twice\.$"):
        parse(RECIPE.format(labels="{classes: [a, a]}"))
    with pytest.raises(UserError, match=r"label set nowhere\.yaml does not exist"):
        parse(RECIPE.format(labels="nowhere.yaml"))


def test_a_label_set_may_lie_in_a_bucket(s3: object) -> None:
    resolve("s3://bucket/sets").write("mine.yaml", MINE.encode())
    assert read_label_set("s3://bucket/sets/mine.yaml") == from_text(MINE)
    resolve("s3://bucket/sets").write("recipe.yaml", RECIPE.format(labels="mine.yaml").encode())
    assert load("s3://bucket/sets/recipe.yaml").label_set.classes == ("drivable", "other")
    with pytest.raises(UserError, match=r"label set s3://bucket/sets/none\.yaml does not exist"):
        read_label_set("s3://bucket/sets/none.yaml")
