"""What is saved comes back; what is damaged is passed over, and what is another's refused."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from plca_dist import polling
from plca_dist.config import Config
from plca_dist.errors import TrainingFault, UserError
from plca_dist.run_files import CHECKPOINTS, COMMIT
from plca_dist.storage import Store, resolve
from plca_dist.training.checkpoint.commit import checkpoint_name
from plca_dist.training.checkpoint.full_state import weights_of
from plca_dist.training.checkpoint.restore import restore
from plca_dist.training.checkpoint.save import Saver
from plca_dist.training.checkpoint.survey import committed, prune
from plca_dist.training.engine import full_state
from plca_dist.training.metrics_log import MetricsLog

OLD, NEW = "step-00000002-of-1-g1", "step-00000004-of-1-g1"
MODEL = "mp_rank_00_model_states.pt"


@pytest.fixture(scope="module")
def config(make_config: Callable[..., Config]) -> Config:
    return make_config()


@pytest.fixture(scope="module")
def saved(config: Config, make_engine: Callable, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run with checkpoints of steps 2 and 4, whose weights differ, and the engine that wrote them."""
    engine = make_engine(config)
    run = resolve(str(tmp_path_factory.mktemp("saved")))
    states = {}
    for step in (2, 4):
        scribble(engine, step)
        states[checkpoint_name(step, 1, 1)] = full_state(engine)
        save(engine, config, run, step)
    assert list(states) == [OLD, NEW]
    return SimpleNamespace(engine=engine, path=Path(run.root), states=states)


def save(engine: Any, config: Config, run: Store, step: int, miou: float | None = None) -> None:
    """And wait for the commit."""
    metrics_log = MetricsLog(run, lambda record: None, generation=1, start_step=step, keep=True)
    with Saver(engine, config, run, metrics_log, 1) as saver:
        saver.save(step, miou=miou)
        saver.finish(needed=True)


def scribble(engine: Any, seed: int) -> None:
    """Weights, buffers and momentum like no others."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*engine.module.parameters(), *engine.module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            else:
                tensor.fill_(seed)
    for p in engine.module.parameters():
        engine.optimizer.state[p]["momentum_buffer"] = torch.randn(p.shape, generator=generator)


@pytest.fixture
def run(saved: SimpleNamespace, tmp_path: Path) -> Store:
    """A copy of the run, to be damaged."""
    shutil.copytree(saved.path, tmp_path / "run")
    return resolve(str(tmp_path / "run"))


def part(run: Store, name: str, file: str) -> Path:
    return Path(run.root) / CHECKPOINTS / name / file


def test_what_is_saved_comes_back(saved: SimpleNamespace, config: Config, run: Store) -> None:
    torch.manual_seed(77)
    expected = torch.rand(3)
    torch.manual_seed(77)
    scribble(saved.engine, 9)
    momentum = {k: s["momentum_buffer"].clone() for k, s in enumerate(saved.engine.optimizer.state.values())}
    save(saved.engine, config, run, 6, miou=31.5)
    state = full_state(saved.engine)
    scribble(saved.engine, 10)
    torch.manual_seed(0)
    found = restore(saved.engine, config, run)
    assert found == committed(run)[0]
    assert (found.name, found.step, found.world_size, found.zero_stage) == ("step-00000006-of-1-g1", 6, 1, 0)
    assert (found.fingerprint, found.miou) == (config.fingerprint(), 31.5)
    for name, value in full_state(saved.engine).items():
        assert torch.equal(value, state[name]), name
    for k, s in enumerate(saved.engine.optimizer.state.values()):
        assert torch.equal(s["momentum_buffer"], momentum[k])
    assert torch.equal(torch.rand(3), expected), "the random state continues"


@pytest.mark.parametrize("name", [OLD, NEW])
def test_weights_without_an_engine_are_the_live_ones(saved: SimpleNamespace, run: Store, name: str) -> None:
    weights = weights_of(run, name)
    assert weights.keys() == saved.states[name].keys()
    for key, value in weights.items():
        assert value.dtype == saved.states[name][key].dtype
        assert torch.equal(value, saved.states[name][key]), key


def test_where_there_is_nothing_training_starts(saved: SimpleNamespace, config: Config, tmp_path: Path) -> None:
    assert restore(saved.engine, config, resolve(str(tmp_path / "fresh"))) is None


def truncate(run: Store) -> None:
    file = part(run, NEW, MODEL)
    file.write_bytes(file.read_bytes()[:-1])


def flip(file: str) -> Callable[[Store], None]:
    def flip_a_bit(run: Store) -> None:
        path = part(run, NEW, file)
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 1
        path.write_bytes(bytes(data))

    return flip_a_bit


def recommit(change: Callable[[dict[str, Any]], object]) -> Callable[[Store], None]:
    def rewrite(run: Store) -> None:
        path = part(run, NEW, COMMIT)
        record = json.loads(path.read_text())
        path.write_text(json.dumps(change(record) or record))

    return rewrite


def garbage(data: bytes) -> Callable[[Store], None]:
    return lambda run: part(run, NEW, COMMIT).write_bytes(data) and None


DAMAGE: dict[str, tuple[Callable[[Store], object], str]] = {
    "never committed": (lambda run: part(run, NEW, COMMIT).unlink(), "never committed"),
    "truncated": (truncate, f"{MODEL} has"),
    "missing": (lambda run: part(run, NEW, "rank-00000.pt").unlink(), "rank-00000.pt has no bytes"),
    "bit in the weights": (flip(MODEL), f"{MODEL} differs"),
    "bit in the random state": (flip("rank-00000.pt"), "rank-00000.pt differs"),
    "empty commit": (garbage(b""), "is damaged"),
    "binary commit": (garbage(b"\xff\x00\x9f" * 40), "is damaged"),
    "half a commit": (garbage(b'{"step": 4, "files": {'), "is damaged"),
    "a list": (garbage(b"[]"), "is damaged"),
    "a number": (garbage(b"4"), "is damaged"),
    "an object": (garbage(b"{}"), "is damaged"),
    "no files": (recommit(lambda r: r.update(files={})), "lists no files"),
    "files in a list": (recommit(lambda r: r.update(files=[MODEL])), "is damaged"),
    "sizes in words": (recommit(lambda r: r.update(files={MODEL: ["large", "hash"]})), "is damaged"),
    "a step in words": (recommit(lambda r: r.update(step="four")), "is damaged"),
    "another's commit": (recommit(lambda r: r.update(step=400)), "it is the commit of step-00000400-of-1-g1"),
    "another hash": (recommit(lambda r: r["files"][MODEL].__setitem__(1, "0" * 64)), f"{MODEL} differs"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning_that_names_it(
    saved: SimpleNamespace,
    config: Config,
    run: Store,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    harm, said = DAMAGE[damage]
    harm(run)
    monkeypatch.setattr(polling, "_PAUSES_S", (0.0,))
    with caplog.at_level(logging.WARNING):
        found = restore(saved.engine, config, run)
    assert found is not None
    assert found.name == OLD
    for name, value in full_state(saved.engine).items():
        assert torch.equal(value, saved.states[OLD][name]), name
    told = [r.message for r in caplog.records if not r.message.endswith("reading it again")]
    assert told
    assert all(text.startswith(f"passing over checkpoint {NEW}: ") for text in told)
    assert said in told[-1]
    with pytest.raises(UserError, match=NEW):
        weights_of(run, NEW)


def test_with_every_checkpoint_damaged_training_does_not_start_over(
    saved: SimpleNamespace, config: Config, run: Store
) -> None:
    flip(MODEL)(run)
    part(run, OLD, COMMIT).write_text("[]")
    with pytest.raises(TrainingFault) as error:
        restore(saved.engine, config, run)
    assert f"{run.uri}/checkpoints to begin again at step 0" in str(error.value)
    assert {NEW, OLD} == {word.rstrip(":") for word in str(error.value).replace("(", " ").split()} & {NEW, OLD}


def test_what_was_never_committed_is_no_reason_to_stop(
    saved: SimpleNamespace, config: Config, run: Store, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (OLD, NEW):
        part(run, name, COMMIT).unlink()
    assert restore(saved.engine, config, run) is None
    assert {NEW, OLD} == {r.message.split()[3].rstrip(":") for r in caplog.records}


@pytest.mark.parametrize("times", [1, 2])
def test_bytes_that_are_lost_on_their_way_are_read_again(
    saved: SimpleNamespace, config: Config, run: Store, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    download, left = Store.download, {"mp_rank_00_model_states.pt": times, "rank-00000.pt": times}

    def truncated(self: Store, name: str, target: Path) -> None:
        download(self, name, target)
        if left.get(target.name, 0):
            left[target.name] -= 1
            target.write_bytes(target.read_bytes()[:-7])

    monkeypatch.setattr(Store, "download", truncated)
    monkeypatch.setattr(polling, "_PAUSES_S", (0.0, 0.0))
    found = restore(saved.engine, config, run)
    assert found is not None
    assert found.name == NEW
    assert not any(left.values())


def test_a_listing_that_lags_costs_no_checkpoint(
    saved: SimpleNamespace, config: Config, run: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory is listed, some of its files are not yet."""
    shown = Store.list

    def lagging(self: Store, prefix: str = "") -> list[Any]:
        return [e for e in shown(self, prefix) if not e.name.endswith((f"{NEW}/{COMMIT}", f"{OLD}/{COMMIT}", MODEL))]

    monkeypatch.setattr(Store, "list", lagging)
    assert [c.name for c in committed(run)] == [NEW, OLD]
    prune(run, 1, committed(run)[0])
    assert [c.name for c in committed(run)] == [NEW]


def test_other_things_in_the_directory_do_not_count(saved: SimpleNamespace, config: Config, run: Store) -> None:
    for name in ("notes.txt", "step-5-of-1-g1.bak/commit.json", "latest/commit.json"):
        run.write(f"{CHECKPOINTS}/{name}", b"{}")
    assert [c.name for c in committed(run)] == [NEW, OLD]


def test_a_store_out_of_reach_is_no_reason_to_go_back(
    saved: SimpleNamespace, config: Config, run: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Store, name: str, target: Path) -> None:
        raise UserError(f"{self.uri}/{name}: access is denied.")

    monkeypatch.setattr(Store, "download", refuse)
    with pytest.raises(UserError, match="access is denied"):
        restore(saved.engine, config, run)


def test_a_checkpoint_of_another_recipe_is_refused(
    saved: SimpleNamespace, make_config: Callable[..., Config], run: Store
) -> None:
    other = make_config("optimizer.lr=0.01")
    with pytest.raises(UserError) as error:
        restore(saved.engine, other, run)
    message = str(error.value)
    assert NEW in message
    assert other.fingerprint() in message
    assert make_config().fingerprint() in message
    assert "--name" in message
    assert "\n" not in message


def test_what_does_not_change_the_result_may_change(
    saved: SimpleNamespace, make_config: Callable[..., Config], run: Store
) -> None:
    config = make_config("checkpoint.keep=7", "log.every=3", "cluster.prefetch=2", "evaluation.uri=val")
    found = restore(saved.engine, config, run)
    assert found is not None
    assert found.name == NEW


def test_no_such_checkpoint_names_those_there_are(run: Store) -> None:
    with pytest.raises(UserError, match=rf"step-00000003-of-1-g1 is no committed checkpoint; committed: {NEW}, {OLD}"):
        weights_of(run, "step-00000003-of-1-g1")
