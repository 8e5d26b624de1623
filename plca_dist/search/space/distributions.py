"""The distribution of one key's values, such as `{uniform: [0.25, 1.5]}`, named as in ray.tune."""

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, model_serializer, model_validator

from plca_dist.errors import nearest

#: Name of a distribution -> its arguments as a space file has them.
FORMS = {
    "uniform": "[low, high]",
    "loguniform": "[low, high]",
    "quniform": "[low, high, q]",
    "randint": "[low, high]",
    "choice": "[value, value, …]",
    "grid": "[value, value, …]",
}


class Distribution(BaseModel):
    """The values that a key may take. A file, and `model_validate`, have it as `{name: arguments}`.

    uniform      a real number from low to high
    loguniform   a real number from low to high whose logarithm is uniform; low > 0
    quniform     a multiple of q from low to high, which are multiples of q themselves
    randint      a whole number n, low <= n < high
    choice       one of the values, at random
    grid         each of the values in turn
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    arguments: tuple[Any, ...]

    @model_validator(mode="before")
    @classmethod
    def _from_file(cls, value: Any) -> Any:
        if isinstance(value, Distribution):
            return value
        if not isinstance(value, dict) or len(value) != 1:
            raise ValueError(f"write one distribution, such as {{uniform: [0.25, 1.5]}}; one of {', '.join(FORMS)}")
        [(name, arguments)] = value.items()
        if name not in FORMS:
            raise ValueError(f"unknown distribution {name!r}; one of {', '.join(FORMS)}.{nearest(str(name), FORMS)}")
        if not isinstance(arguments, list | tuple):
            raise ValueError(f"{name}: {arguments!r}: write {{{name}: {FORMS[name]}}}")
        problem = _values_problem(arguments) if name in ("choice", "grid") else _range_problem(name, arguments)
        if problem:
            raise ValueError(f"{name}: {list(arguments)}: {problem}")
        return {"name": name, "arguments": tuple(arguments)}

    @model_serializer
    def _to_file(self) -> dict[str, Any]:
        return {self.name: list(self.arguments)}

    def examples(self) -> list[Any]:
        """Values of the distribution: all that it lists, or both ends of its range and a value between.

        The value between is not a round number, so a key that takes only whole numbers refuses it.
        """
        if self.name in ("choice", "grid"):
            return list(self.arguments)
        low, high = self.arguments[:2]
        if self.name == "randint":
            return [low, high - 1]
        if self.name == "quniform":
            return [float(low), float(low + self.arguments[2]), float(high)]
        return [float(low), low + (high - low) * (math.sqrt(5) - 1) / 2, float(high)]


def _values_problem(values: list[Any] | tuple[Any, ...]) -> str:
    if not values:
        return "it has no value; name at least one"
    twice = next((v for k, v in enumerate(values) if v in values[:k]), None)
    return "" if twice is None else f"{twice!r} is named twice"


def _range_problem(name: str, arguments: list[Any] | tuple[Any, ...]) -> str:
    form = FORMS[name]
    if len(arguments) != form.count(",") + 1:
        return f"it takes {form}"
    for value in arguments:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"{value!r} is no finite number"
        if name == "randint" and not isinstance(value, int):
            return f"{value!r} is no whole number"
    low, high = arguments[:2]
    if low >= high:
        swapped = " (are they swapped?)" if low > high else " (one fixed value belongs under set)"
        return f"the range is empty; low must be below high{swapped}"
    if name == "loguniform" and low <= 0:
        return f"low {low} has no logarithm; it must be above 0 (choice can name 0 beside other values)"
    if name == "quniform":
        q = arguments[2]
        if q <= 0:
            return f"q {q} must be above 0"
        off = next((end for end in (low, high) if abs(end / q - round(end / q)) > 1e-9), None)
        if off is not None:
            return f"{off} is no multiple of q = {q}; the nearest is {round(off / q) * q:.12g}"
    return ""
