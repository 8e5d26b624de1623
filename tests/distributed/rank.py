"""One rank of the world that `test_ranks.py` starts: `python rank.py PLACE SCENE`, with RANK and WORLD_SIZE set.

A scene is a few runs in one process group, because starting processes costs more than the runs. What each run shows
from the inside is left in PLACE/seen/<run>.rank<rank>.pt; what it leaves in the store is in PLACE/<run>.
"""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from plca_dist import recipe
from plca_dist.errors import TrainingFault, UserError
from plca_dist.run.lease import guarded
from plca_dist.storage import Store, resolve
from plca_dist.training import loop as worker
from plca_dist.training.checkpoint.save import Saver
from plca_dist.training.context import Preempted, TrainContext
from plca_dist.training.engine import TrainingModule, full_state
from plca_dist.training.loop import run_worker

PLACE, RANK, WORLD = Path(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

#: Two passes a step on two ranks, gradients clipped in every step, checkpoints at 2, 4 and 6.
RECIPE = """
deterministic: true
labels: toytown
model: {backbone: tiny, rates: [1, 2, 4]}
source: {uri: source, crop: [32, 64]}
target: {uri: target, crop: [32, 64]}
optimizer: {lr: 0.05, momentum: 0.9, weight_decay: 0.0005, gradient_clipping: 0.05}
schedule: {steps: 6}
batch: {pairs: 4, micro: 1}
checkpoint: {every: 2, keep: 9}
log: {every: 1}
"""
#: A plain ViT under AdamW: many groups, two averages and a count of steps, and a part that does not train.
ADAMW = (
    "model.backbone=timm/test_vit", "model.stride=16", "model.frozen=[pos_embed, blocks.0]", "schedule.warmup=3",
    "optimizer={kind: adamw, lr: 0.001, layer_decay: 0.8, weight_decay: 0.05, gradient_clipping: 0.05}",
)  # fmt: skip
#: A discriminator and rounds of self-training, begun at steps 0 and 3; a pair's loss does not depend on its batch.
RIVALS = (
    "objective.adversarial=0.1", "objective.pseudo_labels=0.5", "objective.entropy=0.01", "objective.max_square=0.1",
    "source.fourier=0.05", "self_training={rounds: 2, start: 0}", "optimizer.gradient_clipping=0", "optimizer.lr=0.005",
)  # fmt: skip
#: A teacher, class-mix, masked consistency and rare classes.
TAUGHT = (
    "objective.class_mix=1", "objective.masked_consistency=1", "teacher.threshold=0.13", "masking.block=8",
    "rare_class_sampling={temperature: 0.05, pixels: 30}",
)  # fmt: skip
LAST_STEP = 5
#: ZeRO stages before and after a checkpoint.
TURNS = ((0, 2), (2, 0), (1, 3), (3, 1))


class Stopped(Exception):
    """Ends a run in the middle of a step."""


def run(
    name: str,
    *settings: str,
    before_step_ends: Callable[[int], None] | None = None,
    even: bool = False,
    seen_as: str | None = None,
    stop_reason: Callable[[], str | None] = lambda: None,
    lease_lost: bool = False,
) -> None:
    """Train, or continue, the run `name`.

    Args:
        before_step_ends: called with the step (from 1) after its update and before anything is recorded of it.
        even: batch norm with its running statistics, so that a pair's loss does not depend on its batch.
        seen_as: what the file of what was seen is called, if not like the run.
        stop_reason: as in `TrainContext`.
        lease_lost: a newer attempt exists from the beginning.
    """
    seen: dict[str, Any] = {"records": [], "states": {}, "momenta": {}, "restored": None, "error": None}
    seen["taught"] = {}
    average, save, build, restore = worker.average_buffers, Saver.save, worker.build_engine, worker.restore
    done, engines = [0], []

    def watched_average(module: Any) -> None:
        average(module)
        done[0] += 1
        if before_step_ends:
            before_step_ends(done[0])

    def watched_save(saver: Saver, step: int, *, miou: float | None) -> None:
        seen["states"][step] = full_state(engines[-1])
        seen["momenta"][step] = momenta(engines[-1])
        if teacher := engines[-1].module.companions.get("teacher"):
            seen["taught"][step] = {name: value.clone() for name, value in teacher.state_dict().items()}
        save(saver, step, miou=miou)

    def watched_restore(engine: Any, config: Any, store: Store) -> Any:
        found = restore(engine, config, store)
        if found:
            seen["restored"] = full_state(engine), momenta(engine)
        return found

    def watched_build(*arguments: Any) -> Any:
        engine = build(*arguments)
        engine.train(not even)
        engines.append(engine)
        return engine

    worker.average_buffers, Saver.save, worker.build_engine = watched_average, watched_save, watched_build
    worker.restore = watched_restore
    try:
        config = recipe.parse(RECIPE, [f"data={PLACE}/data", *settings])
        store = resolve(str(PLACE / name))
        numbers = [int(e.name.split("/")[1]) for e in store.list("attempts")]
        generation = 1 + max(numbers, default=0)
        dist.barrier()
        if RANK == 0:
            store.write(f"attempts/{generation:08d}/recipe.yaml", config.to_yaml().encode())
            store.write(f"lease/{generation + lease_lost:08d}.json", b"{}")
        dist.barrier()
        run_worker(
            config,
            TrainContext(
                guarded(store, generation),
                torch.device("cpu"),
                seen["records"].append,
                generation,
                stop_reason,
            ),
        )
    except (Stopped, TrainingFault, UserError, Preempted) as error:
        seen["error"] = f"{type(error).__name__}: {error}"
        seen["states"]["error"] = full_state(engines[-1])
    finally:
        worker.average_buffers, Saver.save, worker.build_engine = average, save, build
        worker.restore = restore
    torch.save(seen, PLACE / "seen" / f"{seen_as or name}.rank{RANK}.pt")


def momenta(engine: Any) -> dict[str, torch.Tensor]:
    """Every parameter's whole momentum, or AdamW's averages and count, by DeepSpeed's account. A collective call."""
    from deepspeed.utils import safe_get_full_optimizer_state  # after ours, which keeps its import quiet

    stage, zero = engine.zero_optimization_stage(), engine.optimizer
    kept = zero.state if stage == 0 else zero.optimizer.state
    first = next(iter(kept.values()))
    found = {f"step {k}": state["step"].clone() for k, state in enumerate(kept.values()) if "step" in state}
    found = {"steps": torch.stack(list(found.values())).unique()} if found else {}
    for key in sorted(first.keys() - {"step"}):  # collective calls, in one order everywhere
        for name, p in engine.module.named_parameters():
            if not p.requires_grad:
                continue
            if stage == 0:
                found[f"{key} of {name}"] = zero.state[p][key].clone()
                continue
            if stage < 3 and p._hp_mapping is not None:
                flat = zero.single_partition_of_fp32_groups[p._hp_mapping.param_group_index]
                p._hp_mapping.set_optim_state_fragment(flat, zero.optimizer.state[flat])
            found[f"{key} of {name}"] = safe_get_full_optimizer_state(p, key).clone()
    return found


def zero(stage: int) -> str:
    return f"deepspeed.zero_optimization.stage={stage}"


def stop(done: int) -> None:
    if done == LAST_STEP:
        raise Stopped


def die(done: int) -> None:
    if done == LAST_STEP and RANK == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def notice_on_rank_1() -> Callable[[], str | None]:
    """A notice that reaches rank 1 alone, in step 3."""
    calls = iter(range(1, 100))
    return lambda: "SIGTERM" if next(calls) >= 3 and RANK == 1 else None


def first() -> None:
    """Two ranks: whole runs at every ZeRO stage, interrupted ones, one that sees a NaN, one whose rank 1 is killed."""
    for stage in (0, 1, 2, 3):
        run(f"whole-{stage}", zero(stage), "evaluation.uri=val", "evaluation.unlabelled=5")
    for stage in (0, 3):
        run(f"cut-{stage}", zero(stage), before_step_ends=stop)
    for stage in (1, 2):
        run(f"preempted-{stage}", zero(stage), stop_reason=notice_on_rank_1())
    for stage in (0, 1, 3):
        run(f"adamw-{stage}", zero(stage), *ADAMW)
    run("adamw-cut-3", zero(3), *ADAMW, before_step_ends=stop)
    run("even-2", "optimizer.gradient_clipping=0", "optimizer.lr=0.005", "batch.micro=2", even=True)
    _one_rank_sees_a_nan()
    run("cut-2", zero(2), before_step_ends=die)


def _one_rank_sees_a_nan() -> None:
    forward, passes = TrainingModule.forward, iter(range(1, 1000))

    def spoiled(self: TrainingModule, batch: Any) -> Any:
        terms = forward(self, batch)
        spoil = next(passes) == 6 and RANK == 1  # the second pass of step 3
        return terms._replace(total=terms.total * torch.nan, lovasz=terms.lovasz * torch.nan) if spoil else terms

    TrainingModule.forward = spoiled  # type: ignore[method-assign]
    run("nan", "log.every=100")
    TrainingModule.forward = forward  # type: ignore[method-assign]


def again() -> None:
    """Two fresh ranks continue what was interrupted, or written by one rank, or at another ZeRO stage.

    bfloat16 comes last: DeepSpeed keeps its autocast for the process.
    """
    _one_rank_cannot_read()
    for stage in (0, 2, 3):
        run(f"cut-{stage}", zero(stage))
    for stage in (1, 2):
        run(f"preempted-{stage}", zero(stage), seen_as=f"preempted-{stage}-again")
    for stage in (1, 2, 3):
        run(f"back-{stage}", zero(stage))
    for old, new in TURNS:
        run(f"turned-{old}-{new}", zero(new))
    run("adamw-cut-3", zero(3), *ADAMW)
    _one_rank_cannot_write()
    for stage in (0, 2):
        run(f"bfloat16-{stage}", zero(stage), "precision=bfloat16")


def _one_rank_cannot_read() -> None:
    download = Store.download

    def refuse(self: Store, name: str, target: Path) -> None:
        if RANK == 1:
            raise UserError(f"{self.uri}/{name}: access is denied.")
        download(self, name, target)

    Store.download = refuse  # type: ignore[method-assign]
    run("cut-0", zero(0), seen_as="unreadable")
    Store.download = download  # type: ignore[method-assign]


def _one_rank_cannot_write() -> None:
    upload, left = Store.upload, [1]

    def refuse(self: Store, source: Path, name: str) -> None:
        if RANK == 1 and name.startswith("rank-") and left[0]:
            left[0] -= 1
            raise UserError(f"{self.uri}/{name}: the endpoint does not answer.")
        upload(self, source, name)

    Store.upload = refuse  # type: ignore[method-assign]
    run("refused-once", zero(1))
    left[0] = 99
    run("refused", zero(1), "checkpoint.max_failed_saves=1")
    Store.upload = upload  # type: ignore[method-assign]
    _one_rank_has_a_full_disk()
    run("lease-lost", zero(1), lease_lost=True)


def _one_rank_has_a_full_disk() -> None:
    write, left = torch.save, [1]

    def full(*arguments: Any, **more: Any) -> None:
        if RANK == 1 and left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*arguments, **more)

    torch.save = full
    run("full-once", zero(1))
    torch.save = write


def stuck() -> None:
    """Rank 1 hangs in step 3, and rank 0 waits for it."""

    def hang(done: int) -> None:
        if done == 2 and RANK == 1:
            TrainingModule.forward = lambda self, batch: time.sleep(300)  # type: ignore[method-assign]

    run("stuck", "cluster.step_timeout_s=4", before_step_ends=hang)


def alone() -> None:
    """One rank: what two have written, and the same batches."""
    for stage in (0, 1, 2, 3):
        run(f"moved-{stage}", zero(stage))
    for stage in (1, 2, 3):
        run(f"back-{stage}", zero(stage), stop_reason=lambda: "SIGTERM", seen_as=f"back-{stage}-alone")
    run("adamw-1-to-0", zero(0), *ADAMW)
    run("adamw-3-to-2", zero(2), *ADAMW)
    run("even-1", "optimizer.gradient_clipping=0", "optimizer.lr=0.005", "batch.micro=1", even=True)


def four() -> None:
    """Four ranks, two of which did not exist before."""
    for stage in (1, 2, 3):
        run(f"wide-{stage}", zero(stage))
    run("adamw-0-to-3", zero(3), *ADAMW)


def taught() -> None:
    """Two ranks with a teacher: whole runs at every ZeRO stage, and interrupted ones."""
    for stage in (0, 1, 2, 3):
        run(f"taught-{stage}", zero(stage), *TAUGHT)
    for stage in (0, 3):
        run(f"taught-cut-{stage}", zero(stage), *TAUGHT, before_step_ends=stop)


def taught_again() -> None:
    """Two fresh ranks continue."""
    for stage in (0, 3):
        run(f"taught-cut-{stage}", zero(stage), *TAUGHT)


def taught_four() -> None:
    """Four ranks continue what two have written, at another stage."""
    run("taught-0-to-3", zero(3), *TAUGHT)
    run("taught-3-to-0", zero(0), *TAUGHT)


def rivals() -> None:
    """Two ranks with a discriminator and rounds: whole runs at ZeRO 0, 2 and 3, and an interrupted one."""
    for stage in (0, 2, 3):
        run(f"rivals-{stage}", zero(stage), *RIVALS, even=True)
    run("rivals-cut-3", zero(3), *RIVALS, before_step_ends=stop, even=True)


def rivals_again() -> None:
    """Two fresh ranks continue."""
    run("rivals-cut-3", zero(3), *RIVALS, even=True)


def rivals_alone() -> None:
    """One rank with the same batches, as many passes and twice the pairs in each."""
    run("rivals-1", *RIVALS, "batch.micro=2", even=True)


if __name__ == "__main__":
    scene = sys.argv[2]
    rendezvous = f"file://{PLACE}/rendezvous-{scene}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=RANK, world_size=WORLD)
    {"first": first, "again": again, "alone": alone, "four": four, "stuck": stuck, "taught": taught,
     "taught-again": taught_again, "taught-four": taught_four,
     "rivals": rivals, "rivals-again": rivals_again, "rivals-alone": rivals_alone}[scene]()  # fmt: skip
    dist.destroy_process_group()
