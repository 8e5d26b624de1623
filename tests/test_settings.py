"""Every key of a recipe with values that are not meant for it: refused in one line, or usable."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

from plca_dist.deepspeed_options import OPTIONS
from plca_dist.errors import UserError
from plca_dist.recipe import changed, keys, load, parse
from plca_dist.training.build import build_objective, empty_network
from plca_dist.training.engine import deepspeed_config

DEEP: Any = 0
for _ in range(200):
    DEEP = [DEEP]
ZERO = ["zero_optimization", *(f"zero_optimization.{key}" for key in OPTIONS["zero_optimization"])]
KEYS = [key for key in keys() if key != "deepspeed"] + [f"deepspeed.{key}" for key in (*OPTIONS, *ZERO[1:])]
VALUES = [True, float("inf"), float("nan"), -1, 0, 1e20, 10**20, "text", [], [0], {}, [1], None, DEEP, 16**5000]


def test_a_value_is_refused_in_one_line_or_usable() -> None:
    refusals: dict[str, str] = {}
    base = load("toytown", ["model.backbone=tiny"])
    for key in KEYS:
        for value in VALUES:
            try:
                config = changed(base, {key: value})
                assert config.world_sizes
            except UserError as error:
                refusals[key] = str(error)
                continue
            with torch.device("meta"):
                empty_network(config)
            build_objective(config)
            torch.manual_seed(config.seed)
            if key.startswith("deepspeed"):
                DeepSpeedConfig(deepspeed_config(config, 1, 100) | {"train_batch_size": 4})
    unnamed = [line for key, line in refusals.items() if key.rpartition(".")[2] not in line and "batch" not in line]
    assert not unnamed
    assert max(map(len, refusals.values())) < 1500


def test_the_table_of_options_is_deepspeeds() -> None:
    fields = DeepSpeedZeroConfig.model_fields
    assert OPTIONS["zero_optimization"].keys() <= fields.keys() | {field.alias for field in fields.values()}


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 9)
)


@pytest.mark.parametrize(
    "text", [BOMB, "[" * 50_000, "a: " + "[" * 900 + "]" * 900, "&a [*a]", "- " * 2000, "x: 1\n" * 300_000, "!!int ''"]
)
def test_yaml_that_is_a_trap_is_refused_at_once(text: str, tmp_path: Path) -> None:
    (tmp_path / "trap.yaml").write_text(text)
    began = time.monotonic()
    for trap in (lambda: parse(text), lambda: load(f"{tmp_path}/trap.yaml"), lambda: load("toytown", [f"seed={text}"])):
        with pytest.raises(UserError) as caught:
            trap()
        assert len(str(caught.value)) < 600
    assert time.monotonic() - began < 2
