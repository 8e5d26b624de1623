"""What was run, in a person's words: the facts table of a page, from the recipe and what the run recorded."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from plca_dist.config import Cluster, Config, Objective
from plca_dist.training import metrics


def facts(
    config: Config, records: Sequence[Mapping[str, Any]] = (), evaluation: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Facts in the order to show them; what the run has no record of is left out.

    Args:
        config: the run's resolved recipe.
        records: its `metrics.jsonl`.
        evaluation: its `evaluation.json`.
    """
    model, pairs = config.model, config.batch.pairs
    reached = max((r[metrics.STEP] for r in records), default=0)
    found = {
        "recipe": config.about.summary,
        "network": f"DeepLab-V2, {model.backbone}, {model.style} style",
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
        images = " and ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        found["evaluated"] = f"{images} at step {evaluation['step']}"
    for name, key, text in (
        ("pairs per second", metrics.PAIRS_PER_SECOND, "{:.2f} (median)"),
        ("data wait", metrics.DATA_WAIT, "{:.1%} of the time (median)"),
    ):
        values = [r[key] for r in records if key in r]
        if values:
            found[name] = text.format(median(values))
    memory = [r[metrics.GPU_MEMORY] for r in records if metrics.GPU_MEMORY in r]
    if memory:
        found["GPU memory"] = f"{max(memory):.1f} GB (peak)"
    return {name: text for name, text in found.items() if text}


def _range(cluster: Cluster) -> str:
    return " to ".join(str(n) for n in dict.fromkeys((cluster.least_workers, cluster.most_workers)))


def loss_in_words(objective: Objective) -> str:
    """Eq. 14 with its numbers: `CE + 0.75 Lovász + 0.1 (feature + prediction, λ = 0.5) + 0.01 smoothing (γ = 10)`."""
    terms = ["CE"]
    if objective.lovasz:
        terms.append(f"{objective.lovasz:g} Lovász")
    levels = [n for n, on in (("feature", objective.feature_level), ("prediction", objective.prediction_level)) if on]
    if objective.association and levels:
        how = f", λ = {objective.aggregation:g}" + ("" if objective.contrast else ", without contrast")
        terms.append(f"{objective.association:g} ({' + '.join(levels)}{how})")
    if objective.smoothing:
        terms.append(f"{objective.smoothing:g} smoothing (γ = {objective.smoothness:g})")
    return " + ".join(terms)
