"""The methods that can be trained beside PLCA, as settings over a recipe: `methods.yaml`, for `RECIPE/METHOD`."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from plca_dist.errors import UserError, nearest
from plca_dist.later_keys import KINDS_OF, LATER, OPTIONS_OF
from plca_dist.method.published import METHODS, PUBLISHED
from plca_dist.parsing import from_yaml, settings_text

#: Recipes at the paper's scale -> the data set that published scores are of.
PAPER = {"gtav_to_cityscapes": "gtav", "synthia_to_cityscapes": "synthia"}

#: All that methods are made of beside Eq. 14 -> off: terms, their options, and steps of the data.
_OFF = {
    key: value
    for key, value in LATER.items()
    if key.startswith(("objective.", "source.fourier", "rare_class_sampling.", *(f"{name}." for name in OPTIONS_OF)))
}


class Method(NamedTuple):
    """One method.

    Attributes:
        settings: dotted key -> value, over any recipe. What else a recipe has beside Eq. 14 is off.
        training: the same, how its authors trained; over the recipes of the paper's scale.
        needs_source: its published scores begin with weights that were trained on the source.
    """

    name: str
    summary: str
    settings: dict[str, Any]
    training: dict[str, Any]
    needs_source: bool

    def over(self, recipe: str) -> dict[str, Any]:
        """Its settings over the recipe of that name."""
        return self.settings | (self.training if recipe in PAPER else {})

    def check_over(self, objective: Mapping[str, Any], recipe: str) -> None:
        """Raises UserError where what the method leaves to the recipe is off there: `objective` is the recipe's."""
        if "objective.association" not in self.settings and objective.get("association") == 0:
            raise UserError(
                f"{recipe}: its objective.association is 0, so nothing of PLCA would be in {self.name}; take a recipe "
                "with PLCA, or a method without it."
            )

    def about(self, recipe: str, about: dict[str, Any]) -> dict[str, str]:
        """What a person wants to know of it over that recipe, whose own description is `about`."""
        begins = "; begin with source-only weights, --set model.weights=RUN" if self.needs_source else ""
        alone = recipe in PAPER and "cluster.workers" in self.training
        plain, own = f"plca train {recipe}", f"plca train {recipe}/{self.name}"
        command = str(about.get("command", ""))
        return {
            "summary": f"{self.summary}, over {recipe}{begins}",
            "command": command.replace(plain, own) if plain in command else own,
            "cost": "one GPU, for days" if alone else f"about that of {recipe}",
            "score": self.score(recipe),
        }

    def score(self, recipe: str) -> str:
        """The published mIoU in words."""
        dataset = PAPER.get(recipe)
        published: float | None
        if dataset and self.name in PUBLISHED:
            published, remark = PUBLISHED[self.name][dataset], "with aggregation" if self.name == "plca" else ""
        elif dataset and self.name in METHODS:
            published, remark = METHODS[self.name].score(dataset), METHODS[self.name].remark
        else:
            published, remark = None, ""
        if published is None:
            return "none published, none measured for this recipe"
        return f"{published:.1f} mIoU (published{', ' + remark if remark else ''}; not reproduced here)"


@cache
def methods() -> dict[str, Method]:
    """All of them by name, in the order of the file."""
    file = Path(__file__).with_name("methods.yaml")
    tree = from_yaml(settings_text(file, file.name), file.name)
    return {
        name: Method(
            name,
            row["summary"],
            _off(row["settings"]) | row["settings"],
            dict(tree["trainings"][row["training"]]) if "training" in row else {},
            bool(row.get("needs_source", False)),
        )
        for name, row in tree["methods"].items()
    }


def _off(settings: dict[str, Any]) -> dict[str, Any]:
    """What is off in a method of these settings. Options of terms that it has are left to the recipe."""
    sections = {
        name for name, weights in OPTIONS_OF.items() if any(settings.get(f"objective.{weight}") for weight in weights)
    }
    if settings.get("rare_class_sampling.temperature"):
        sections.add("rare_class_sampling")
    # Options of another kind of self-training than the method's are not its own.
    kind = settings.get("self_training.kind")
    of_others = {f"self_training.{name}" for name, owner in KINDS_OF.items() if kind and owner != kind}
    return {k: v for k, v in _OFF.items() if k.partition(".")[0] not in sections or k in of_others}


def method(name: str) -> Method:
    """The method of that name. Raises UserError with the nearest for any other."""
    if name not in methods():
        raise UserError(f"method {name!r} is unknown; known: {', '.join(methods())}.{nearest(name, list(methods()))}")
    return methods()[name]


def split(recipe: str) -> tuple[str, str | None]:
    """(recipe, method) of `RECIPE/METHOD`; (recipe, None) of a name, a path or a URI without one."""
    base, _, last = recipe.rpartition("/")
    return (base, last) if base and last in methods() and not Path(recipe).is_file() else (recipe, None)


def run_name(recipe: str) -> str:
    """What a run of this recipe is called without a name of its own: `toytown`, `toytown-minent`."""
    base, chosen = split(recipe)
    return Path(base).stem + (f"-{chosen}" if chosen else "")
