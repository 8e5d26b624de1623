"""Saving goes on beside training, may fail a stated number of times, and commits nothing that is another's."""

import contextlib
import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from plca_dist import scratch
from plca_dist.config import Config
from plca_dist.errors import LeaseLost, TrainingFault, UserError
from plca_dist.messages import Message
from plca_dist.run_files import METRICS, attempt
from plca_dist.storage import Store, resolve
from plca_dist.training.checkpoint import save as under_test
from plca_dist.training.checkpoint.full_state import weights_of
from plca_dist.training.checkpoint.save import Saver
from plca_dist.training.checkpoint.survey import committed
from plca_dist.training.metrics_log import MetricsLog


@pytest.fixture(scope="module")
def engine(make_engine: Callable, make_config: Callable[..., Config]) -> Any:
    return make_engine(make_config())


@contextlib.contextmanager
def saving(engine: Any, config: Config, run: Store) -> Iterator[tuple[Saver, list[str], MetricsLog]]:
    messages: list[str] = []
    metrics_log = MetricsLog(
        run,
        lambda e: messages.append(e.text if isinstance(e, Message) else ""),
        generation=1,
        start_step=0,
        keep=True,
    )
    with Saver(engine, config, run, metrics_log, 1) as saver:
        yield saver, messages, metrics_log


@pytest.fixture
def config(make_config: Callable[..., Config]) -> Config:
    return make_config("checkpoint.max_failed_saves=2", "checkpoint.keep=9")


@pytest.fixture
def run(tmp_path: Path) -> Store:
    return resolve(str(tmp_path))


def steps(run: Store) -> list[int]:
    return [c.step for c in committed(run)]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Uploads wait for it."""
    opened, upload = threading.Event(), Store.upload

    def wait(self: Store, source: Path, name: str) -> None:
        assert opened.wait(30)
        upload(self, source, name)

    monkeypatch.setattr(Store, "upload", wait)
    return opened


def test_saving_waits_for_nothing_but_the_one_before(
    engine: Any, config: Config, run: Store, gate: threading.Event
) -> None:
    with saving(engine, config, run) as (saver, messages, metrics_log):
        saver.save(2, miou=None)
        assert saver.busy
        assert steps(run) == []
        metrics_log.add({"step": 2, "loss/total": 1.0})
        gate.set()
        saver.save(4, miou=7.5)
        assert steps(run)[-1] == 2, "at most one is under way"
        saver.finish()
        assert not saver.busy
        saver.advance()  # nothing to do
    assert [(c.step, c.miou) for c in committed(run)] == [(4, 7.5), (2, None)]
    assert [line for line in messages if line] == [
        "checkpoint step-00000002-of-1-g1",
        "checkpoint step-00000004-of-1-g1",
    ]
    assert json.loads(run.read(f"{attempt(1)}/{METRICS}")) == {"step": 2, "loss/total": 1.0}, (
        "it goes before the commit"
    )


def test_the_snapshot_is_of_the_step_it_was_taken_at(
    engine: Any, config: Config, run: Store, gate: threading.Event
) -> None:
    """Training changes the weights while they are on their way."""
    weight = engine.module.network.backbone.conv1.weight
    before = weight.detach().clone()
    with saving(engine, config, run) as (saver, _, _):
        saver.save(2, miou=None)
        weight.data.add_(1.0)
        gate.set()
        saver.finish()
    assert weights_of(run, "step-00000002-of-1-g1")["backbone.conv1.weight"].equal(before)
    weight.data.copy_(before)


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """The store refuses so many uploads from now on."""
    upload, left = Store.upload, [0]

    def maybe(self: Store, source: Path, name: str) -> None:
        if left[0] and name.startswith("rank-"):
            left[0] -= 1
            raise UserError(f"{self.uri}/{name}: the endpoint does not answer.")
        upload(self, source, name)

    monkeypatch.setattr(Store, "upload", maybe)
    return lambda count: left.__setitem__(0, count)


def test_failed_saves_are_announced_and_bounded(
    engine: Any, config: Config, run: Store, refuse: Callable[[int], None]
) -> None:
    with saving(engine, config, run) as (saver, messages, _):
        refuse(2)
        for step in (2, 4, 6):
            saver.save(step, miou=None)
        saver.finish(needed=True)
        assert steps(run) == [6], "one that succeeds starts the count anew; nothing of the others is left"
        assert len(messages) == 3
        for k in (1, 2):
            name = f"checkpoint step-0000000{2 * k}-of-1-g1"
            assert messages[k - 1].startswith(f"{name} failed, {k} in a row (at most 2): {run.uri}/")
            assert messages[k - 1].endswith("the endpoint does not answer.")
        refuse(3)
        saver.save(8, miou=None)
        saver.save(10, miou=None)
        saver.save(12, miou=None)
        with pytest.raises(TrainingFault, match=r"3 checkpoints in a row .*_saves = 2.*the last of step 12: "):
            saver.finish()
    assert steps(run) == [6]


def test_one_that_is_needed_must_not_fail(
    engine: Any, config: Config, run: Store, refuse: Callable[[int], None]
) -> None:
    with saving(engine, config, run) as (saver, _, _):
        refuse(1)
        saver.save(2, miou=None)
        with pytest.raises(TrainingFault, match=r"the last checkpoint could not be saved: .*does not answer"):
            saver.finish(needed=True)


@pytest.mark.parametrize("first", ["mp_rank", "rank-"])
def test_a_disk_that_does_not_take_it_is_a_failed_save(
    first: str, engine: Any, config: Config, run: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether DeepSpeed's file is the first without room, or ours."""
    write, room = torch.save, [False]

    def maybe(value: Any, file: Any, **more: Any) -> None:
        if not room[0] and Path(file).name.startswith(first):
            raise RuntimeError("unexpected pos 576 vs 534")  # torch's words for a disk that is full
        write(value, file, **more)

    monkeypatch.setattr(torch, "save", maybe)
    with saving(engine, config, run) as (saver, messages, _):
        saver.save(2, miou=None)
        saver.finish()
        (message,) = messages
        assert f"failed, 1 in a row (at most 2): {tempfile.gettempdir()}/scratch-plca-" in message
        assert "MiB were free (unexpected pos 576 vs 534): make room there, or set TMPDIR" in message
        assert run.list() == []
        room[0] = True
        saver.save(4, miou=None)
        saver.finish(needed=True)
        assert list(saver._scratch.iterdir()) == [saver._scratch / scratch.LOCK]
    assert steps(run) == [4]
    assert not saver._scratch.exists()


def test_who_has_lost_the_run_commits_nothing(engine: Any, config: Config, run: Store) -> None:
    def lost() -> None:
        raise LeaseLost("another launch has taken the run over")

    with saving(engine, config, replace(run, guard=lost)) as (saver, _, _):
        saver.save(2, miou=None)
        with pytest.raises(LeaseLost, match="another launch has taken the run over"):
            saver.finish()
    assert run.list() == []


def test_after_an_error_nothing_here_writes_any_more(
    engine: Any, config: Config, run: Store, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next attempt's checkpoint of the same name would meet this one's files."""
    committing = []
    monkeypatch.setattr(under_test, "commit", lambda *arguments: committing.append(arguments))
    threading.Timer(0.5, gate.set).start()
    with contextlib.suppress(ZeroDivisionError), saving(engine, config, run) as (saver, _, _):
        saver.save(2, miou=None)
        raise ZeroDivisionError
    found = run.list()
    assert len(found) <= 1, "the file that was under way"
    assert not saver.busy
    assert not committing
    assert not [t for t in threading.enumerate() if t.name.startswith("checkpoint")]


def test_an_error_that_is_no_fault_of_the_store_is_raised(
    engine: Any, config: Config, run: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(under_test, "commit", broken)
    with saving(engine, config, run) as (saver, _, _):
        saver.save(2, miou=None)
        with pytest.raises(ZeroDivisionError):
            saver.finish()
