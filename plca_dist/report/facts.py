"""The facts table of a page, in plain words: from the recipe and the records of a run."""

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import groupby, pairwise
from statistics import median
from typing import Any

from plca_dist.config import ClusterSettings, Config
from plca_dist.method.settings import FURTHER, ObjectiveSettings
from plca_dist.models.architecture import TIMM
from plca_dist.recipe import keys
from plca_dist.run.history import Attempt, count
from plca_dist.sections import ModelSettings
from plca_dist.terminal import duration
from plca_dist.training import metrics

#: Sections of a recipe that do not change the training.
_ASIDE = ("about.", "storage.", "log.")
_SIZES_LISTED = 6


def facts(
    config: Config,
    records: Sequence[Mapping[str, Any]] = (),
    evaluation: Mapping[str, Any] | None = None,
    history: Sequence[Attempt] = (),
) -> dict[str, str]:
    """Facts in the order to show them, without those that the run has no record of.

    Args:
        config: the run's resolved recipe.
        records: its `metrics.jsonl`.
        evaluation: its `evaluation.json`.
        history: its attempts; a run of an older version has none.
    """
    model, pairs = config.model, config.batch.pairs
    reached = max((r[metrics.STEP] for r in records), default=0)
    table = {
        "recipe": config.about.summary,
        "network": _network(model),
        "initial weights": (model.weights or "random").rpartition("/")[2],
        "source": config.data_uri(config.source.uri),
        "target": config.data_uri(config.target.uri),
        "loss": loss_in_words(config.objective),
        "steps": f"{reached} of {config.schedule.steps}, {pairs} pair{'s' * (pairs > 1)} each",
        "learning rate": f"{config.optimizer.lr:g}",
        "precision, seed": f"{config.precision}, {config.seed}",
        "workers": f"{_range(config.cluster)} {'GPU' if config.cluster.gpu else 'CPU'}",
    }
    if evaluation:
        counts = {"images": evaluation.get("images"), "unlabelled images": evaluation.get("unlabelled")}
        images = " and ".join(f"{n} {kind}" for kind, n in counts.items() if n)
        table["evaluated"] = f"{images} at step {evaluation['step']}"
    for name, key, text in (
        ("pairs per second", metrics.PAIRS_PER_SECOND, "{:.2f} (median)"),
        ("data wait", metrics.DATA_WAIT, "{:.1%} of the time (median)"),
    ):
        values = [r[key] for r in records if key in r]
        if values:
            table[name] = text.format(median(values))
    memory = [r[metrics.GPU_MEMORY] for r in records if metrics.GPU_MEMORY in r]
    if memory:
        table["GPU memory"] = f"{max(memory):.1f} GB (peak)"
    table["time"] = _time(records, history)
    if history:
        table["world size"] = _world_sizes([n for n, _ in groupby(a.workers for a in history)])
        table["launches"] = _launches(history)
        table["versions"] = _versions(history)
    return {name: text for name, text in table.items() if text}


def _network(model: ModelSettings) -> str:
    head = "DeepLab-V2" if model.head == "deeplab" else "multi-level head"
    if model.backbone.startswith(TIMM):
        return f"{head}, {model.backbone}, stride {model.stride}"
    return f"{head}, {model.backbone}, {model.style} style"


def recipe_differences(configs: Mapping[str, Config]) -> dict[str, list[str]]:
    """The keys in which the recipes of runs differ, with the value of each run."""
    differing = {}
    for key in keys():
        values = [_shown(key, config) for config in configs.values()]
        if len(set(values)) > 1 and not key.startswith(_ASIDE):
            differing[key] = values
    return differing


def _shown(key: str, config: Config) -> str:
    """The value of a key; of labels, the name of the set."""
    return config.label_set.name if key == "labels" else str(reduce(getattr, key.split("."), config))


def _time(records: Sequence[Mapping[str, Any]], history: Sequence[Attempt]) -> str:
    """The time spent training, from the records, and the time of whole attempts, from the history."""
    elapsed = [(r[metrics.STEP], r[metrics.ELAPSED]) for r in records if metrics.ELAPSED in r]
    begins = {a.step for a in history}
    # The elapsed time starts at 0 in every attempt, so the last value before each start counts.
    training = sum(
        now
        for (step, now), (next_step, after) in pairwise([*elapsed, (math.inf, 0.0)])
        if after < now or any(step <= begin < next_step for begin in begins)
    )
    spans = [a.ended - a.began for a in history if a.ended is not None]
    texts = [f"{duration(training)} of training"] if elapsed else []
    if spans:
        unknown = len(history) - len(spans)
        more = f" without {unknown} attempt{'s' * (unknown > 1)} of unknown end" if unknown else ""
        texts.append(f"{duration(sum(spans))} with starts and ends{more}")
    return ", ".join(texts)


def _world_sizes(sizes: Sequence[int]) -> str:
    if len(sizes) > _SIZES_LISTED:
        return f"{min(sizes)} to {max(sizes)}, changed {len(sizes) - 1} times"
    return ", then ".join(map(str, sizes))


def _launches(history: Sequence[Attempt]) -> str:
    counts = {"launch": len({a.launch for a in history})}
    counts |= {"restart": count(history, "restarted"), "preemption": count(history, "preempted")}
    counts |= {"kill": count(history[:-1], "")}  # a killed driver records no end
    plurals = {"launch": "es"}
    return ", ".join(f"{n} {event}{plurals.get(event, 's') * (n > 1)}" for event, n in counts.items() if n)


def _versions(history: Sequence[Attempt]) -> str:
    """`plca-dist 0.1.0, torch 2.11.0 then 2.12.0`: a package that changed has its versions in order."""
    texts = []
    for package in history[-1].versions:
        versions = dict.fromkeys(v for a in history if (v := a.versions.get(package)))
        if versions:
            texts.append(f"{package} {' then '.join(versions)}")
    return ", ".join(texts)


def _range(cluster: ClusterSettings) -> str:
    return " to ".join(str(n) for n in dict.fromkeys((cluster.least_workers, cluster.most_workers)))


#: Term -> its option, what is said of it, and the value of which it is said.
_OPTIONS = {
    "entropy": ("entropy_penalty", " (robust)", "robust"),
    "max_square": ("image_weights", " (image-wise weights)", True),
}


def loss_in_words(objective: ObjectiveSettings) -> str:
    """Eq. 14 with its weights: `CE + 0.75 Lovász + 0.1 (feature + prediction, λ = 0.5) + 0.01 smoothing (γ = 10)`."""
    terms = ["CE"]
    if objective.lovasz:
        terms.append(f"{objective.lovasz:g} Lovász")
    levels = [n for n, on in (("feature", objective.feature_level), ("prediction", objective.prediction_level)) if on]
    if objective.association and levels:
        settings = f", λ = {objective.aggregation:g}" + ("" if objective.contrast else ", without contrast")
        terms.append(f"{objective.association:g} ({' + '.join(levels)}{settings})")
    if objective.smoothing:
        terms.append(f"{objective.smoothing:g} smoothing (γ = {objective.smoothness:g})")
    for name in FURTHER:
        if weight := getattr(objective, name):
            option = _OPTIONS.get(name)
            shown = option and option[1] if option and getattr(objective, option[0]) == option[2] else ""
            terms.append(f"{weight:g} {name.replace('_', ' ')}{shown}")
    return " + ".join(terms)
