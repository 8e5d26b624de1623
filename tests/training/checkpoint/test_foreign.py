"""A checkpoint of somebody else: its hashes are right, and one of its files would run code where it is loaded."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from plca_dist.config import Config
from plca_dist.errors import UserError
from plca_dist.storage import Location, resolve
from plca_dist.training.checkpoint.restore import restore
from plca_dist.training.checkpoint.save import Saver
from plca_dist.training.dataloading import open_stream
from plca_dist.training.engine import set_lr
from plca_dist.training.metrics_log import MetricsLog
from plca_dist.training.trained import load_trained

NAME = "step-00000001-of-1-g1"
MODEL, OPTIM, RANDOM = "mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt", "rank-00000.pt"
FILES = {0: (MODEL, RANDOM), 1: (MODEL, OPTIM, RANDOM), 2: (MODEL, OPTIM, RANDOM),
         3: (f"zero_pp_rank_0_{MODEL}", OPTIM, RANDOM)}  # fmt: skip
#: The files that weights are read from, by stage.
OF_WEIGHTS = {0: (MODEL,), 1: (MODEL,), 2: (MODEL,), 3: FILES[3][:2]}


def at_stage(number: int) -> str:
    return f"deepspeed.zero_optimization.stage={number}"


class Plant:
    """Creates a file wherever it is unpickled."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.made), "w")


@pytest.fixture(scope="module")
def written(
    make_engine: Callable, make_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Path]:
    """The directory of an unfinished run at a ZeRO stage, with one checkpoint; made once."""
    made: dict[int, Path] = {}

    def at(stage: int) -> Path:
        if stage not in made:
            config = make_config(at_stage(stage))
            engine, stream = make_engine(config), open_stream(config, 0, 1, 0)
            set_lr(engine, config, 0)
            engine.backward(engine(next(stream)).total)
            engine.step()
            stream.close()
            run = resolve(str(tmp_path_factory.mktemp("written")))
            run.write("recipe.yaml", config.to_yaml().encode())
            metrics_log = MetricsLog(run, lambda record: None, generation=1, start_step=1, keep=True)
            with Saver(engine, config, run, metrics_log, 1) as saver:
                saver.save(1, miou=None)
                saver.finish(needed=True)
            assert {p.name for p in (Path(run.root) / "checkpoints" / NAME).iterdir()} == {*FILES[stage], "commit.json"}
            made[stage] = Path(run.root)
        return made[stage]

    return at


@pytest.mark.parametrize("sound", [True, False], ids=["beside what belongs there", "alone"])
@pytest.mark.parametrize(("stage", "file"), [(stage, file) for stage, files in FILES.items() for file in files])
def test_nothing_in_it_is_executed_and_the_file_is_named(
    written: Callable[[int], Path],
    make_engine: Callable,
    make_config: Callable[..., Config],
    tmp_path: Path,
    stage: int,
    file: str,
    sound: bool,
) -> None:
    run, planted = tmp_path / "run", tmp_path / "planted"
    shutil.copytree(written(stage), run)
    path = run / "checkpoints" / NAME / file
    states = torch.load(path, weights_only=False) if sound else {}
    torch.save({**states, "more": Plant(planted)}, path, _use_new_zipfile_serialization=sound)
    commit = path.with_name("commit.json")
    record = json.loads(commit.read_text())
    record["files"][file] = [path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()]
    commit.write_text(json.dumps(record))

    def refused(read: Callable[[], object]) -> None:
        with pytest.raises(UserError) as error:
            read()
        assert not planted.exists()
        assert f"checkpoints/{NAME}/{file} is not a file that a run writes (it refers to " in str(error.value)
        assert "\n" not in str(error.value)

    checkpoint = Location(f"{run}/checkpoints/{NAME}")  # of which evaluate, predict, export and report make a network
    if file in OF_WEIGHTS[stage]:
        refused(lambda: load_trained(checkpoint))
    else:
        load_trained(checkpoint)
    for other in (stage, 0 if stage == 3 else 3):  # as DeepSpeed resumes, and as we do
        config = make_config(at_stage(other))
        refused(lambda c=config: restore(make_engine(c), c, resolve(str(run))))  # type: ignore[misc]
    assert not planted.exists()


@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.parametrize("states", [[], {"module": 1}, {"module": {}, "buffer_names": [], "param_shapes": []}])
def test_tensors_that_make_no_checkpoint_are_refused_in_one_line(
    written: Callable[[int], Path], tmp_path: Path, stage: int, states: object
) -> None:
    shutil.copytree(written(stage), tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / NAME / FILES[stage][0]
    torch.save(states, path)
    commit = path.with_name("commit.json")
    record = json.loads(commit.read_text())
    record["files"][path.name] = [path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()]
    commit.write_text(json.dumps(record))
    with pytest.raises(UserError, match=NAME) as error:
        load_trained(Location(str(path.parent)))
    assert "\n" not in str(error.value)
