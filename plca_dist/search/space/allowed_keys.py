"""The keys of a recipe that a search may vary, and those that a space file may set for all trials."""

from plca_dist.recipe import keys, unknown_key

_SAME_RESULT = "does not change the result of a trial"
_SHARED = "is shared by all trials"

#: Keys and sections that do not vary within a search -> the reason.
_FIXED = {
    "about": "only describes the recipe",
    "data": _SHARED,
    "source.uri": _SHARED,
    "target.uri": _SHARED,
    "evaluation": "is how trials are measured, which must be alike to be compared",
    "schedule.steps": "is the length at which trials are compared",
    "order.damaged": _SAME_RESULT,
    "deepspeed": _SAME_RESULT,
    "cluster": _SAME_RESULT,
    "checkpoint": _SAME_RESULT,
    "storage": _SAME_RESULT,
    "log": _SAME_RESULT,
}
#: Keys that the search itself decides -> the key of the space file to write instead, or the reason.
_DECIDED = {
    "evaluation.every": "write evaluations",
    "evaluation.unlabelled": "write unlabelled",
    "cluster.workers": "write resources.workers",
    "cluster.cpus_per_worker": "write resources.cpus_per_worker",
    "cluster.gpu": "write resources.gpu",
    "storage.uri": "trials lie in the search's own directory",
    "storage.endpoint": "trials lie in the search's own directory",
}


def check_varied(key: str) -> None:
    """Raises ValueError for a key that is not in the config tree, or that may not differ between trials."""
    known = keys()
    reason = next((why for fixed, why in _FIXED.items() if key == fixed or key.startswith(f"{fixed}.")), None)
    if key in known and reason is None:
        return
    varied = [k for k in known if not any(k == fixed or k.startswith(f"{fixed}.") for fixed in _FIXED)]
    if key not in known and not key.startswith("deepspeed."):
        raise ValueError(unknown_key(key, varied))
    fix = "" if key in _DECIDED or key.startswith("about.") else "; one value for all trials belongs under set"
    raise ValueError(f"{key} cannot vary in a search: it {reason}{fix}")


def check_set(key: str) -> None:
    """Raises ValueError for a key that is not in the config tree, or that the search itself decides."""
    if key in _DECIDED:
        raise ValueError(f"{key} is decided by the search: {_DECIDED[key]}")
    if key not in keys() and not key.startswith("deepspeed."):  # below it are DeepSpeed's own options
        raise ValueError(unknown_key(key, keys()))
