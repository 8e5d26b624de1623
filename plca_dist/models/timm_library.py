"""timm itself: imported here alone, and only when a recipe names one of its networks."""

import re
from collections.abc import Mapping
from typing import Any

from plca_dist.errors import UserError, first_line, nearest
from plca_dist.models.architecture import TIMM

_NAME = re.compile(r"\w+(\.\w+)?")


def library() -> Any:
    """The module `timm`. Raises UserError where it is not installed."""
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"backbones called {TIMM}NAME need timm, which is not installed ({first_line(error)}):"
            " pip install 'plca-dist[timm]'."
        ) from None
    return timm


def known_name(backbone: str) -> str:
    """timm's name for `timm/NAME`. Raises UserError for one that timm does not know; the nearest are named."""
    timm, name = library(), backbone.removeprefix(TIMM)
    architecture, _, tag = name.partition(".")
    if not _NAME.fullmatch(name) or architecture not in timm.list_models():
        raise UserError(
            f"backbone {backbone!r} is unknown to timm {timm.__version__}.{_near(name, timm.list_models())}"
        )
    if tag:
        tags = [n.partition(".")[2] for n in timm.list_pretrained(f"{architecture}.*")]
        if tag not in tags:
            known = f"its weights are called {', '.join(tags)}" if tags else "it has none"
            raise UserError(f"backbone {backbone!r}: timm {timm.__version__} has no weights {tag!r}; {known}.")
    return name


def _near(name: str, known: list[str]) -> str:
    return nearest(TIMM + name, [TIMM + other for other in known])


def create(backbone: str, options: Mapping[str, Any], *, classifier: bool = False) -> Any:
    """The network `timm/NAME` with timm's options, freshly initialized; without its classifier, unless asked for it.

    Raises UserError as `known_name` does, and whatever timm raises for an option.
    """
    classes = {} if classifier else {"num_classes": 0}
    return library().create_model(known_name(backbone), **classes, **options)
