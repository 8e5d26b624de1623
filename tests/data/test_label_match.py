"""Which class of one label set becomes which of another."""

import numpy as np
import pytest

from plca_dist.data.label_file import label_set_from
from plca_dist.data.label_match import matched, remap, unmatched, with_nearest
from plca_dist.data.label_record import record
from plca_dist.data.label_table import label_table
from plca_dist.data.labels import LABEL_SETS, LabelSet
from plca_dist.data.shards import Manifest
from plca_dist.errors import UserError
from plca_dist.parsing import from_yaml

#: CamVid's 11 classes as the 7 of IDD Lite.
SEVEN = """
classes:
  - {name: drivable, merges: road}
  - {name: non-drivable, merges: sidewalk}
  - {name: living things, merges: person}
  - {name: vehicle, merges: car}
  - {name: roadside objects, merges: [pole, traffic sign, fence]}
  - {name: far objects, merges: [building, vegetation]}
  - sky
"""


def made(text: str) -> LabelSet:
    return label_set_from(from_yaml(text, "set.yaml"), "set.yaml")


def test_eleven_classes_become_seven() -> None:
    seven, camvid = made(SEVEN), LABEL_SETS["camvid"]
    became = {
        name: None if i is None else seven.classes[i]
        for name, i in zip(camvid.classes, matched(camvid, seven), strict=True)
    }
    assert became == {
        "sky": "sky", "building": "far objects", "pole": "roadside objects", "road": "drivable",
        "sidewalk": "non-drivable", "vegetation": "far objects", "traffic sign": "roadside objects",
        "fence": "roadside objects", "car": "vehicle", "person": "living things", "bicyclist": None,
    }  # fmt: skip
    assert unmatched(camvid, seven) == (("bicyclist",), ())
    table = remap(camvid, seven)
    assert table[:11].tolist() == [6, 5, 4, 0, 1, 5, 4, 4, 3, 2, 255]
    assert np.all(table[11:] == 255)


def test_a_merged_class_is_not_one_of_those_that_it_merges() -> None:
    assert unmatched(made(SEVEN), LABEL_SETS["camvid"])[1] == tuple(
        c for c in LABEL_SETS["camvid"].classes if c != "sky"
    )


@pytest.mark.parametrize("turned", [False, True])
def test_synonyms_go_both_ways(turned: bool) -> None:
    sets = made("classes: [sky, {name: motorbike, same_as: [motorcycle]}]"), made("classes: [motorcycle, sky]")
    there, here = reversed(sets) if turned else sets
    assert matched(there, here) == (1, 0)


def test_the_name_itself_comes_first() -> None:
    assert matched(made("classes: [car, sky]"), made("classes: [{name: vehicle, merges: sky}, car]")) == (1, 0)
    both = made("classes: [{name: bike, same_as: bicycle}, bicycle2]")
    assert matched(both, made("classes: [bicycle, bike]")) == (1, None)


def test_sets_that_share_no_class_are_refused_with_the_nearest_names() -> None:
    there = made("classes: [motorbike, lorry]")
    manifest = Manifest("bikes", "set", there.classes, True, 0, (), (), "", own_labels=record(there))
    with pytest.raises(UserError) as caught:
        label_table(manifest, made("classes: [motorcycle, sky]"), "data/bikes")
    assert str(caught.value) == (
        "data/bikes (label set 'set') knows none of the classes wanted: motorcycle (there: 'motorbike'?), sky; same_as "
        "or merges in a label-set file says which class is which."
    )
    table = label_table(manifest, made("classes: [{name: motorcycle, same_as: motorbike}, sky]"), "data/bikes")
    assert table[:2].tolist() == [0, 255]


def test_synonyms_of_shards_are_part_of_what_is_trained_on() -> None:
    plain, same = made("classes: [a, b]"), made("classes: [a, {name: b, same_as: c}]")
    prints = [
        Manifest("x", "set", s.classes, True, 0, (), (), "", own_labels=record(s) if s else None).fingerprint()
        for s in (plain, same)
    ]
    old = Manifest("x", "set", plain.classes, True, 0, (), (), "").fingerprint()
    assert prints[0] == old != prints[1]


def test_what_nobody_says_is_ignored_and_named_with_what_is_like_it() -> None:
    bdd, cityscapes = made("classes: [road, motorbike, bike]"), LABEL_SETS["cityscapes"]
    unused, missing = unmatched(bdd, cityscapes)
    assert unused == ("motorbike", "bike")
    assert "motorcycle" in missing
    assert with_nearest(("motorcycle", "train"), unused, "there") == "motorcycle (there: 'motorbike'?), train"
