"""What labels are, most likely, that are not coded as their label set says."""

from collections.abc import Sequence

from plca_dist.data.coding import Coding
from plca_dist.data.labels import CODINGS, LABEL_SETS, LabelSet

_ASK = "Is this the right label file and label set?"


def likely(found: set[int], coding: Coding, labels: LabelSet | None) -> str:
    """A sentence about the codes of one label file, some of which `coding` refuses."""
    if labels is None:
        return _ASK
    count = len(labels)
    if coding.form == "colour":
        return (
            "Colours between two classes come from resizing or compression; write labels without both."
            if (len(found) > 4 * count)
            else _ASK
        )
    others = [name for name, known in (*LABEL_SETS.items(), *CODINGS.items()) if _fits(found, coding, known, labels)]
    if others:
        return f"They fit --labels {' or '.join(others)}."
    if count == 2 and found <= {0, 255}:
        return "Black and white masks: give the first class values: 0 and the second values: 255 in a label-set file."
    if max(found - {255}, default=0) == count:
        return f"Classes counted from 1? Then give them values: 1 to {count} in a label-set file."
    return f"{_ASK} Other numbers are stated as values and ignore in a label-set file."


def _fits(found: set[int], coding: Coding, known: LabelSet, labels: LabelSet) -> bool:
    return (
        known.classes == labels.classes
        and known.coding is not None
        and known.coding.form == coding.form
        and known.coding != coding
        and found <= set(known.coding.allowed)
    )


def suspicious(pixels: Sequence[int], coding: Coding | None) -> str:
    """A sentence where the pixels of each class over a whole data set look like those of another coding, or ""."""
    plain = coding is not None and coding.form == "index" and coding.codes == tuple((i,) for i in range(len(pixels)))
    if plain and len(pixels) > 2 and not pixels[0] and all(pixels[1:]):
        return (
            "The first class never occurs and all others do: are the labels counted from 1? Then give the classes "
            "values in a label-set file."
        )
    if sum(1 for n in pixels if n) == 1:
        return "All labelled pixels are of one class: look at them with --preview."
    return ""
