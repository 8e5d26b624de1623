"""What a run does about failures, without a cluster: `fit` is replaced by a script of what happens."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch

from plca_dist.errors import RunFailed, RunPreempted, TrainingFault, UserError
from plca_dist.ray_cluster.mailbox import Left
from plca_dist.recipe import load
from plca_dist.run import train as under_test
from plca_dist.run.attempt import ControllerFailed, WorkersFailed
from plca_dist.run.directory import Run
from plca_dist.run.preemption import StopKind, StopRequests
from plca_dist.run.train import train
from plca_dist.run_files import HISTORY, attempt
from plca_dist.storage import Store
from plca_dist.training.checkpoint.commit import Checkpoint, checkpoint_name, commit

Told = tuple[list[str], BaseException | None]
Story = Callable[..., Told]
Event = int | BaseException | Left | Callable[[], BaseException | Left]


def lost() -> WorkersFailed:
    return WorkersFailed(
        [RuntimeError("Connection closed by peer"), RuntimeError("the actor died\nlong story")], lost=True
    )


def broken() -> WorkersFailed:
    return WorkersFailed([ValueError("a bug\nin many lines")], lost=False)


def reach(store: Store, step: int, generation: int) -> None:
    name = checkpoint_name(step, 2, generation)
    store.write(f"checkpoints/{name}/file", b"x")
    commit(store, Checkpoint(name, step, 2, 0, "print", None, {"file": (1, "hash")}))


@pytest.fixture
def stop_requests(monkeypatch: pytest.MonkeyPatch) -> list[StopRequests]:
    """Those that runs make, as they make them."""
    made: list[StopRequests] = []
    monkeypatch.setattr(under_test, "StopRequests", lambda: made.append(StopRequests()) or made[-1])
    return made


@pytest.fixture
def story(tmp_path: Path, toytown_settings: list[str], monkeypatch: pytest.MonkeyPatch) -> Story:
    """`story(events, max_failures)`: a run in which `fit` meets the events in turn; what was said, and how it ended.

    An event is a step that a checkpoint reaches, an exception or a leaving of the workers that ends the attempt, or
    what makes one; without either the attempt succeeds.
    """

    @contextmanager
    def no_cluster(*_: Any) -> Iterator[None]:
        yield

    monkeypatch.setattr(under_test, "connection", no_cluster)
    monkeypatch.setattr(under_test, "mailbox", lambda *_: nullcontext(SimpleNamespace(places={})))
    monkeypatch.setattr(under_test, "watch", no_cluster)
    monkeypatch.setattr(under_test, "next_world_size", lambda config: (2, True))
    monkeypatch.setattr(under_test, "logs_directory", lambda: "/the/logs")

    def tell(events: Sequence[Event], max_failures: int = 0) -> Told:
        coming = iter(events)

        def fit(run: Run, mailbox: Any, workers: int, generation: int) -> Left | None:
            run.store.write(f"{attempt(generation)}/.ray/state", b"")
            for coming_event in coming:
                event = coming_event() if callable(coming_event) else coming_event
                if isinstance(event, BaseException):
                    raise event
                if isinstance(event, Left):
                    return event
                reach(run.store, event, generation)
            run.store.write("model.safetensors", safetensors.torch.save({}))
            return None

        monkeypatch.setattr(under_test, "fit", fit)
        said: list[str] = []
        config = load(
            "toytown",
            [
                *toytown_settings,
                "evaluation.uri=null",
                "schedule.steps=300",
                f"storage.uri={tmp_path}",
                f"cluster.max_failures={max_failures}",
            ],
        )
        try:
            train(config, "run", lambda event: said.append(event.text))
        except (UserError, RunFailed, RunPreempted, KeyboardInterrupt) as error:
            return said, error
        finally:
            assert not list((tmp_path / "run").rglob(".ray")), "Ray's state is left in the run"
            assert next(coming, None) is None, "it stopped before the story's end"
        return said, None

    def without_starts(events: Sequence[Event], max_failures: int = 0) -> Told:
        said, error = tell(events, max_failures)
        return [line for line in said if line != "starting 2 workers"], error

    return without_starts


def test_a_lost_worker_is_not_counted_as_long_as_the_run_gets_on(story: Story, tmp_path: Path) -> None:
    said, error = story([10, lost(), 20, lost(), 30, lost(), 40], max_failures=0)
    assert error is None
    assert [line.rpartition("; ")[2] for line in said] == [f"restarting from step {s}" for s in (10, 20, 30)]
    assert all("\n" not in line for line in said)
    assert history(tmp_path) == [
        (0, "restarted", "RuntimeError: Connection closed by peer"),
        (10, "restarted", "RuntimeError: Connection closed by peer"),
        (20, "restarted", "RuntimeError: Connection closed by peer"),
        (30, "finished", ""),
    ]


def test_a_worker_lost_again_and_again_at_one_place_is_counted(story: Story, tmp_path: Path) -> None:
    said, error = story([10, lost(), lost(), lost()], max_failures=1)
    assert isinstance(error, RunFailed)
    assert len(said) == 2
    assert "gave up after 2 failures. Newest checkpoint: step 10; logs: /the/logs" in str(error)
    assert [end for _, end, _ in history(tmp_path)] == ["restarted", "restarted", "failed"]


def test_an_error_is_retried_while_the_budget_lasts(story: Story) -> None:
    said, error = story([broken(), 10, broken(), 20], max_failures=2)
    assert error is None
    assert said == [
        "worker failed (ValueError: a bug); restarting from step 0",
        "worker failed (ValueError: a bug); restarting from step 10",
    ]


def test_without_a_budget_the_first_error_ends_the_run(story: Story) -> None:
    said, error = story([10, broken()], max_failures=0)
    assert said == []
    assert str(error) == "ValueError: a bug; gave up after 1 failure. Newest checkpoint: step 10; logs: /the/logs"


@pytest.mark.parametrize(
    ("event", "kind", "text"),
    [
        (UserError("a shard is damaged"), UserError, "a shard is damaged"),
        (
            WorkersFailed([TrainingFault("the loss is not finite at step 7")], lost=False),
            RunFailed,
            "not finite at step 7",
        ),
        (ControllerFailed("no resources\nmore"), RunFailed, "no resources; logs: /the/logs"),
    ],
)
def test_what_no_retry_mends_ends_the_run_at_once(
    story: Story, event: BaseException, kind: type[BaseException], text: str, tmp_path: Path
) -> None:
    said, error = story([10, event], max_failures=3)
    assert said == []
    assert isinstance(error, kind)
    assert text in str(error)
    assert "\n" not in str(error)
    assert history(tmp_path) == [(0, "failed", str(error))]


def test_ctrl_c_says_where_the_run_stands(story: Story, tmp_path: Path) -> None:
    _, error = story([KeyboardInterrupt()])
    assert isinstance(error, KeyboardInterrupt)
    assert str(error) == f"run {tmp_path}/run has no checkpoint yet; the same command continues it"
    _, error = story([20, KeyboardInterrupt()])
    assert "has checkpoint at step 20 of 300; the same command continues it" in str(error)
    assert history(tmp_path) == [(0, "interrupted", "")] * 2


def test_a_finished_run_is_left_alone(story: Story) -> None:
    assert story([300]) == ([], None)
    said, error = story([])
    assert error is None
    assert "is finished; nothing to do" in said[0]


def test_a_checkpoint_that_does_not_count_is_named(story: Story, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints" / checkpoint_name(30, 2, 1)).mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / checkpoint_name(30, 2, 1) / "part").write_text("half of it")
    said, error = story([10, broken(), 40], max_failures=1)
    assert error is None
    assert said[-1].endswith("restarting from step 10")
    assert f"warning: passing over checkpoint {checkpoint_name(30, 2, 1)}: it was never committed" in said


def test_a_notice_before_workers_train_leaves_at_once_and_says_where_the_run_stands(
    story: Story, tmp_path: Path
) -> None:
    def at_sigterm() -> BaseException:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("it is not answered")

    before = signal.getsignal(signal.SIGTERM)
    _, error = story([20, at_sigterm])
    assert isinstance(error, RunPreempted)
    assert str(error) == (
        f"preempted (SIGTERM): run {tmp_path}/run has checkpoint at step 20 of 300; the same command continues it"
    )
    assert history(tmp_path) == [(0, "preempted", "SIGTERM")]
    assert signal.getsignal(signal.SIGTERM) is before


def test_workers_that_leave_on_a_final_notice_end_the_run_and_on_another_they_start_again(
    story: Story, stop_requests: list[StopRequests], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def noticed(kind: StopKind, reason: str, *, final: bool) -> Callable[[], Left]:
        def give() -> Left:
            stop_requests[-1].give(kind, reason, final=final)
            return Left(30 if final else 20, time.monotonic() + 1.2)

        return give

    monkeypatch.setattr(under_test, "can_go_on", lambda config: True)
    said, error = story(
        [20, noticed("grew", "the cluster grew", final=False), 30, noticed("signal", "SIGTERM", final=True)]
    )
    assert said == [
        "the cluster grew: checkpoint step-00000020-of-2-g1 committed 1.2 s after the notice; "
        "going on with what the cluster holds"
    ]
    assert isinstance(error, RunPreempted)
    assert "preempted (SIGTERM): checkpoint step-00000030-of-2-g2 committed 1.2 s after the notice; the same" in str(
        error
    )
    assert history(tmp_path) == [(0, "left", "the cluster grew"), (20, "preempted", "SIGTERM")]
    newest = max((tmp_path / "run").glob(f"attempts/*/{HISTORY}"))
    assert [a["reached"] for a in json.loads(newest.read_text())] == [20, 30]


def test_workers_lost_on_their_way_out_are_a_preemption_all_the_same(
    story: Story, stop_requests: list[StopRequests], tmp_path: Path
) -> None:
    def lost_after_a_notice() -> BaseException:
        stop_requests[-1].give("signal", "SIGTERM", final=True)
        return lost()

    _, error = story([20, lost_after_a_notice])
    assert isinstance(error, RunPreempted)
    assert "preempted (SIGTERM), and workers were lost" in str(error)
    assert history(tmp_path) == [(0, "preempted", "SIGTERM")]


def test_the_driver_imports_no_deepspeed() -> None:
    """It takes seconds to import, and compiles things; only workers need it."""
    code = "import plca_dist.run.train, sys; print([name for name in sys.modules if name.split('.')[0] == 'deepspeed'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_to_check_a_network_the_driver_does_not_import_the_compiler() -> None:
    """torch takes over a second for it."""
    code = """if True:
        import sys
        from plca_dist.recipe import load
        from plca_dist.training.build import check_network
        check_network(load("toytown", ["data=/x"]))
        print("torch._dynamo" in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def history(storage: Path) -> list[tuple[int, str, str]]:
    """(step from which, how, why) of every attempt at a story's run, as its directory says."""
    attempts = json.loads(max((storage / "run").glob(f"attempts/*/{HISTORY}")).read_text())
    assert all(a["workers"] == 2 and a["versions"]["torch"] and a["ended"] >= a["began"] for a in attempts)
    return [(a["step"], a["end"], a["why"]) for a in attempts]
