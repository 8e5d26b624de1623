"""Everything of Ray that `ray_cluster/internals` uses and Ray does not document is still there, and still needed.

A failure here names what of this project breaks, or which workaround can go. It is where to begin with a new Ray.
"""

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
import ray.train.torch
from ray._private import state, worker
from ray._raylet import AuthenticationTokenLoader
from ray.core.generated import common_pb2, gcs_pb2
from ray.train.v2._internal import constants
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import (
    UserExceptionWithTraceback,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial
from ray.tune.search.sample import Domain

from plca_dist.ray_cluster.internals import SWITCHES, core, train, tune

CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")
TrainErrors = (UserExceptionWithTraceback, WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError)


class Plain:
    """Stands for a trainable."""


@pytest.mark.parametrize(
    ("owner", "name", "parameters", "breaks"),
    [
        (state.GlobalState, "get_draining_nodes", [], "no drain is noticed, so a preempted node costs its steps"),
        (state.GlobalState, "available_resources_per_node", [], "a range of workers does not find its width"),
        (state.GlobalState, "total_resources_per_node", [], "a cluster that is too small is waited for"),
        (state.GlobalState, "actor_table", ["actor_id"], "a lost worker spends the budget for errors"),
        (state.GlobalState, "_connect_and_get_accessor", [], "killed trials keep their places for ever"),
        (AuthenticationTokenLoader, "reset_cache", [], "a second cluster of one process is refused its token"),
        (worker, "get_dashboard_url", [], "a local cluster starts seconds later"),
        (ray._private.node.Node, "get_logs_dir_path", [], "messages cannot name Ray's logs"),
        (ray.train.torch.TorchTrainer, "_create_default_callbacks", [], "training starts seconds later"),
        (ray.train.torch.TorchTrainer, "_initialize_and_run_controller", ["controller_init_kwargs"],
         "an autoscaler is asked for the wrong number of workers"),
        (ray.train.torch.TorchTrainer, "_register_sigint_handler", ["controller"], "Ctrl-C ends with exit code 0"),
        (FixedScalingPolicy, "after_controller_start", ["train_run_context"], "a local cluster starts seconds later"),
        (FixedScalingPolicy, "_maybe_send_resource_request", [], "a local cluster asks an autoscaler that it lacks"),
        (FixedScalingPolicy, "_get_num_workers_for_resource_request", [], "no autoscaler makes room for the most"),
        (Domain, "sample", ["config", "size", "random_state"], "draws of a search cannot be repeated"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "",
)  # fmt: skip
def test_a_function_is_there_with_its_parameters(owner: Any, name: str, parameters: list[str], breaks: str) -> None:
    function = getattr(owner, name, None)
    assert callable(function), f"ray {ray.__version__} has no {owner.__name__}.{name}: {breaks}"
    found = [p for p in inspect.signature(function).parameters if p != "self"]
    assert found[: len(parameters)] == parameters, f"{owner.__name__}.{name} takes {found}: {breaks}"


def test_the_trainer_gives_its_controller_a_scaling_policy() -> None:
    source = inspect.getsource(ray.train.torch.TorchTrainer.fit)
    assert "scaling_policy=" in source, "Trainer replaces a keyword that Ray no longer passes"
    assert "self._initialize_and_run_controller(" in source, "Trainer's scaling policy is never used"


def test_what_a_worker_raised_is_found_in_rays_wrapper() -> None:
    cause = ValueError("a bug")
    error = ray.train.WorkerGroupError(
        "failed", {0: UserExceptionWithTraceback(cause, "traceback"), 1: RuntimeError("plain")}
    )
    found = train.worker_errors(error)
    assert found[0] is cause, "a UserError of a worker is no longer recognized, and is retried"
    assert isinstance(found[1], RuntimeError)


def test_the_errors_of_lost_workers_are_known_by_their_types() -> None:
    assert issubclass(ray.exceptions.ActorDiedError, train.LOST_WORKER), "a killed worker spends the budget for errors"
    assert issubclass(ray.exceptions.ActorUnavailableError, train.LOST_WORKER)
    assert set(TrainErrors[1:]) <= set(train.LOST_WORKER)


def test_what_a_task_raised_is_found_in_rays_wrapper() -> None:
    cause = KeyError("x")
    error = ray.exceptions.RayTaskError("function", "traceback", cause)
    assert core.task_error(error) is cause, "a UserError of an evaluation's worker is no longer one line"
    assert core.task_error(error.as_instanceof_cause()) is cause
    lost = ray.exceptions.WorkerCrashedError()
    assert core.task_error(lost) is lost


def test_rays_tables_have_the_fields_that_are_read() -> None:
    death = gcs_pb2.ActorTableData().death_cause
    death.actor_died_error_context.reason = common_pb2.ActorDiedErrorContext.Reason.Value("NODE_DIED")
    assert not death.HasField("oom_context")
    names = common_pb2.ActorDiedErrorContext.Reason.keys()
    assert {*core.DIED, "RAY_KILL"} <= set(names), "a lost worker cannot be told from one that Ray ended"
    group = gcs_pb2.PlacementGroupTableData()
    for name in ("state", "creator_job_id", "creator_actor_dead", "creator_actor_id", "placement_group_id"):
        assert hasattr(group, name), f"killed trials keep their places for ever: no {name}"


def test_tunes_trials_have_what_schedulers_need() -> None:
    trial = tune.stand_in()
    assert isinstance(trial, Trial)
    assert tune.actor_of(trial) is None, "a stopped trial is not told to leave, and trains on"


def test_tune_describes_no_trial_with_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CREDENTIALS:
        monkeypatch.setenv(name, "planted")
    described = class_cache._ActorClassCache().get(Plain)._default_options
    assert "env_vars" in described["runtime_env"]
    assert "planted" not in str(described), "Ray logs the credentials of a search, and shows them in command lines"


def test_a_driver_that_cannot_be_quietened_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    core.quieten_driver()
    assert worker._worker_logs_enabled is False
    assert "_worker_logs_enabled" in inspect.getsource(worker.print_worker_logs), "the switch switches nothing"
    monkeypatch.delattr(worker, "_worker_logs_enabled")
    with pytest.raises(RuntimeError, match=r"has no ray\._private\.worker\._worker_logs_enabled"):
        core.quieten_driver()


def test_a_hook_that_ray_renames_is_refused_at_import() -> None:
    with pytest.raises(ImportError, match=r"FixedScalingPolicy has no _ask_for_room, which this project replaces"):
        train.require_hooks(FixedScalingPolicy, "_ask_for_room")


@pytest.mark.parametrize("module", ["run.attempt", "search.tune"])
def test_switches_are_set_before_ray_is_imported(module: str) -> None:
    code = (
        "import builtins, os, sys\n"
        "real = builtins.__import__\n"
        "def watched(name, *rest):\n"
        "    if name.split('.')[0] == 'ray' and 'seen' not in globals():\n"
        "        globals()['seen'] = dict(os.environ)\n"
        "    return real(name, *rest)\n"
        "builtins.__import__ = watched\n"
        f"import plca_dist.{module}\n"
        "from plca_dist.ray_cluster.internals import SWITCHES\n"
        "seen = globals().get('seen', os.environ)\n"
        "print({k: seen.get(k) for k in SWITCHES} == SWITCHES)"
    )
    environment = {k: v for k, v in os.environ.items() if k not in SWITCHES}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_ray_still_reads_the_switches_of_train_and_tune() -> None:
    assert constants.HEALTH_CHECK_INTERVAL_S_ENV_VAR in SWITCHES
    assert constants.ENABLE_PREEMPTION_WATCHER_ENV_VAR in SWITCHES
    for name in (n for n in SWITCHES if n.startswith("TUNE_")):
        assert name in ray.tune.constants.TUNE_ENV_VARS, f"Tune no longer knows {name}"


def test_ray_still_reads_the_switches_of_its_raylet() -> None:
    raylet = (Path(ray.__file__).parent / "core/src/ray/raylet/raylet").read_bytes()
    for name in (n for n in SWITCHES if n.startswith("RAY_") and n[4].islower()):
        assert name.removeprefix("RAY_").encode() in raylet, f"Ray no longer knows {name}"


class TestNoLongerNeeded:
    """A failure here is good news: a workaround can go."""

    def test_ray_train_still_starts_parts_that_are_not_used(self) -> None:
        trainer = ray.train.torch.TorchTrainer(print, scaling_config=ray.train.ScalingConfig(num_workers=1))
        kinds = {type(c) for c in trainer._create_default_callbacks()}
        assert DatasetsCallback in kinds, "Ray starts no DatasetsCallback by itself: Trainer need not leave it out"
        assert PlacementGroupCleanerCallback in kinds, "Ray starts no cleaner by itself: Trainer need not leave it out"

    def test_ray_train_still_answers_ctrl_c_with_exit_code_0(self) -> None:
        source = inspect.getsource(ray.train.torch.TorchTrainer._register_sigint_handler)
        assert "sys.exit(0)" in source, "Ray's own handler may do: see whether Trainer need replace it"

    def test_tune_still_copies_credentials(self) -> None:
        source = inspect.getsource(class_cache)
        assert all(f'"{name}"' in source for name in CREDENTIALS), "Tune's list of variables may stay as it is"

    def test_rays_interval_of_health_checks_is_still_long(self) -> None:
        assert constants.DEFAULT_HEALTH_CHECK_INTERVAL_S > 0.5, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S need not be set"
