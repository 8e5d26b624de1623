"""What an autoscaler is asked for: room for the most workers, though an attempt may start with fewer."""

from typing import Any

import pytest
import ray.train
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

from plca_dist.ray_cluster.internals import train as trainer


@pytest.mark.parametrize(("alone", "asked"), [(False, 8), (True, None)])
def test_an_autoscaler_is_asked_for_the_most(monkeypatch: pytest.MonkeyPatch, alone: bool, asked: int | None) -> None:
    """But a cluster that is this machine alone has none to ask."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(trainer, "_alone", lambda: alone)
    monkeypatch.setattr(
        ray.train.torch.TorchTrainer, "_initialize_and_run_controller", lambda self, **parts: given.update(parts)
    )
    made = trainer.Trainer(print, most_workers=8, scaling_config=ray.train.ScalingConfig(num_workers=2))
    made._initialize_and_run_controller()
    policy = given["scaling_policy"]
    requests: list[int] = []

    class Coordinator:
        def maybe_send_resource_request(self, config: ray.train.ScalingConfig, workers: int) -> None:
            requests.append(workers)

    policy._coordinator_client = Coordinator()
    assert isinstance(policy, FixedScalingPolicy)
    assert policy.make_decision_for_non_running_worker_group().num_workers == 2
    assert requests == ([] if asked is None else [asked])
