"""Weights for networks of timm: files as timm or a network's authors write them, and timm's hub."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from plca_dist.errors import UserError, first_line
from plca_dist.models.efficientnet_names import as_timm_names_them
from plca_dist.models.quiet import quietly
from plca_dist.models.state import differences
from plca_dist.models.timm_backbone import Facts
from plca_dist.models.timm_library import create, known_name, library


def timm_weights(
    backbone: str, facts: Facts, wanted: Iterable[str], state: Mapping[str, Tensor] | None, origin: str
) -> dict[str, Tensor]:
    """The tensors called `wanted` for what `build_timm` made, from the state of the whole network.

    That is as timm or as the network's authors write it: timm itself translates names and resizes position embeddings.
    Its classifier plays no part.

    Args:
        state: None: what timm's hub has for it, which is fetched from there or from its cache on this machine.

    Raises UserError for a state of another network, with the first keys that differ, and for a hub out of reach.
    """
    options = dict(facts.options)
    own = create(backbone, options, classifier=True)
    if state is not None:
        state = _with_classifier(as_timm_names_them(state, own.state_dict()), own)
        options["pretrained_cfg_overlay"] = {"state_dict": dict(state)}
    try:
        with quietly():  # the hub's client tells of each of its tries
            found = library().create_model(known_name(backbone), pretrained=True, **options).state_dict()
    except Exception as error:  # the hub's clients raise nearly anything
        if state is None:
            raise UserError(
                f"model.weights = hub: timm could not fetch that of {backbone} ({first_line(error, with_type=True)});"
                " check the network, or fetch the file elsewhere and name it in model.weights."
            ) from None
        wrong = "; ".join(differences(own.state_dict(), state)) or first_line(error, with_type=True)
        raise UserError(
            f"{origin} does not fit backbone {backbone!r}: {wrong}: give the file that timm publishes for it."
        ) from None
    return {name: found[name] for name in wanted}


def _with_classifier(state: Mapping[str, Tensor], own: Any) -> dict[str, Tensor]:
    """The state with the classifier of `own` where timm looks for one: files have others, of more classes, or none."""
    names = own.pretrained_cfg.get("classifier") or ()
    names = (names,) if isinstance(names, str) else names
    ours = {key: value for key, value in own.state_dict().items() if key.rpartition(".")[0] in names}
    parts = {key.split(".")[0] for key in ours}
    has_another = any(key.split(".")[0] in parts for key in state)  # under its authors' name, perhaps
    return {**state, **{key: value for key, value in ours.items() if key in state or not has_another}}
