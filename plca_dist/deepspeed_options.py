"""DeepSpeed's own options that a recipe may pass through, with their types: importing DeepSpeed takes seconds.

Batch sizes, precision, the optimizer, its schedule and clipping belong to the recipe's other sections. DeepSpeed
ignores unknown keys of the top level, so they are refused here. `sparse_gradients` is for embeddings, which no network
here has.
"""

import math
from collections.abc import Mapping
from typing import Any

from plca_dist.errors import nearest, short

_COUNT = range(2**63)
_ON = (True, False)
_OFFLOAD = {
    "device": ("none", "cpu", "nvme"), "nvme_path": str, "buffer_count": _COUNT, "pin_memory": _ON,
}  # fmt: skip
_ZERO: dict[str, Any] = {
    "stage": range(4),
    **dict.fromkeys(
        ("contiguous_gradients", "reduce_scatter", "use_multi_rank_bucket_allreduce", "allgather_partitions",
         "overlap_comm", "load_from_fp32_weights", "elastic_checkpoint", "ignore_unused_parameters", "legacy_stage1",
         "round_robin_gradients", "zero_quantized_weights", "zero_quantized_nontrainable_weights",
         "zero_quantized_gradients", "memory_efficient_linear", "override_module_apply", "log_trace_cache_warnings",
         "stage3_gather_16bit_weights_on_model_save", "stage3_use_all_reduce_for_fetch_params",
         "stage3_allgather_sequential"), _ON),
    **dict.fromkeys(
        ("allgather_bucket_size", "sub_group_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold",
         "stage3_model_persistence_threshold", "stage3_max_live_parameters", "stage3_max_reuse_distance",
         "stage3_module_granularity_threshold"), _COUNT),
    "reduce_bucket_size": range(1, 2**63),
    "zero_hpz_partition_size": range(1, 2**31),
    "offload_param": {**_OFFLOAD, "buffer_size": _COUNT, "max_in_cpu": _COUNT},
    "offload_optimizer": {**_OFFLOAD, "pipeline_read": _ON, "pipeline_write": _ON, "fast_init": _ON, "ratio": float},
}  # fmt: skip
#: Name -> what it may be: a type, a range, some values, or such a table. A float here is at least 0 and finite.
OPTIONS: dict[str, Any] = {
    "zero_optimization": _ZERO,
    "zero_allow_untested_optimizer": _ON,
    "communication_data_type": ("fp32", "fp16", "bf16"),
    "prescale_gradients": _ON,
    "gradient_predivide_factor": float,
    "activation_checkpointing": dict,
    "aio": dict,
    "comms_logger": {"enabled": _ON, "prof_all": _ON, "prof_ops": list, "verbose": _ON, "debug": _ON},
    "flops_profiler": dict,
    "wall_clock_breakdown": _ON,
    "memory_breakdown": _ON,
    "dump_state": _ON,
}


def check(values: Mapping[str, Any], options: Mapping[str, Any] = OPTIONS, above: str = "") -> None:
    """Raises ValueError for the first option that is unknown or of another kind."""
    for name, value in values.items():
        key = f"{above}{name}"
        if name not in options:
            inside = f"{key!r} may not be set here; allowed: {', '.join(options)}."
            raise ValueError((inside + nearest(str(name), options)).rstrip("."))
        allowed = options[name]
        if isinstance(allowed, dict):
            if not isinstance(value, dict):
                raise ValueError(f"{key} is {short(value)}; it is a mapping of {', '.join(allowed)}")
            check(value, allowed, f"{key}.")
        elif not _is(value, allowed):
            raise ValueError(f"{key} is {short(value)}; allowed: {_in_words(allowed)}")


def _is(value: Any, allowed: Any) -> bool:
    if allowed is float:
        return type(value) in (int, float) and 0 < value < math.inf
    if isinstance(allowed, type):
        return isinstance(value, allowed)
    if isinstance(allowed, range):
        return type(value) is int and value in allowed
    return any(type(value) is type(one) and value == one for one in allowed)


def _in_words(allowed: Any) -> str:
    if isinstance(allowed, range):
        return ", ".join(map(str, allowed)) if allowed.stop < 10 else f"whole numbers from {allowed.start}"
    if isinstance(allowed, type):
        words = {float: "finite numbers above 0", dict: "a mapping", list: "a list", str: "text"}
        return words[allowed]
    return ", ".join("true" if one is True else "false" if one is False else str(one) for one in allowed)
