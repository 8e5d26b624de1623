"""Classes of countable things, by their names or as a recipe names them."""

import pytest

from plca_dist.data.label_file import label_set_from
from plca_dist.data.labels import LABEL_SETS
from plca_dist.data.things import things_of
from plca_dist.errors import UserError


def test_street_scenes_have_things_that_are_known() -> None:
    labels = LABEL_SETS["cityscapes"]
    assert [labels.classes[k] for k in things_of(labels, None)] == [
        "traffic light", "traffic sign", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    ]  # fmt: skip
    assert [labels.classes[k] for k in things_of(labels, ["pole", "car"])] == ["pole", "car"]


def test_what_is_no_class_or_no_thing_is_refused() -> None:
    with pytest.raises(UserError, match=r"feature_distance.classes: 'cart' is no class of .* Did you mean 'car'\?"):
        things_of(LABEL_SETS["cityscapes"], ["cart"])
    own = label_set_from({"classes": ["lesion", "skin"]}, "mine.yaml")
    with pytest.raises(UserError, match=r"no class that is known as a thing; name some of .* out of lesion, skin"):
        things_of(own, None)
    with pytest.raises(UserError, match="no class that is known as a thing"):
        things_of(LABEL_SETS["cityscapes"], [])
