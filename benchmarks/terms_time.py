"""What terms beside Eq. 14 cost: a step with them against a step of PLCA alone, on the same batches.

    python benchmarks/terms_time.py [--steps 12] [--repeats 5]

Network, objective, SGD and what the terms keep beside the network, in one process with all its threads, on batches of
the toytown recipe that wait in memory. Before anything is reported, the terms of Eq. 14 must agree to the bit in the
first pass, and without further terms nothing may be kept. Ratios of median step times, alternating, median of repeats;
on the clock, and of the processor's time, which other work on the machine disturbs less.
"""

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

import torch
from common import save

from plca_dist import recipe
from plca_dist.data.prepare import prepare_toytown
from plca_dist.data.stream import Batch
from plca_dist.storage import resolve
from plca_dist.training.build import build_objective
from plca_dist.training.dataloading import open_stream
from plca_dist.training.engine import TrainingModule
from plca_dist.training.further_terms import further_terms
from plca_dist.training.trained import fresh_network

#: Name -> weights of the further terms.
ROWS: dict[str, tuple[str, ...]] = {
    "PLCA": (),
    "+ class_mix": ("objective.class_mix=1",),
    "+ masked_consistency": ("objective.masked_consistency=1", "masking.block=32"),
    "+ both": ("objective.class_mix=1", "objective.masked_consistency=1", "masking.block=32"),
    "class_mix alone": ("objective.class_mix=1", "objective.association=0", "objective.smoothing=0"),
}
_OF_EQ_14 = ("cross_entropy", "lovasz", "feature", "prediction", "smoothing_source", "smoothing_target")


class Trainer:
    """A network that trains with some terms. All trainers begin with the same weights."""

    def __init__(self, folder: Path, settings: tuple[str, ...]) -> None:
        config = recipe.load("toytown", [f"data={folder}/data", "source.uri=source", "target.uri=target", *settings])
        torch.manual_seed(config.seed)
        network = fresh_network(config)
        further = further_terms(config, network)
        self.config, self.further = config, further
        self._module = TrainingModule(network, build_objective(config, further.terms), (), further.companions).train()
        self._optimizer = torch.optim.SGD(network.parameters(), lr=config.optimizer.lr, momentum=0.9)
        self._done = 0

    def step(self, batch: Batch) -> tuple[float, float, dict[str, torch.Tensor]]:
        """Seconds on the clock, seconds of the processor, and the loss terms."""
        began, began_cpu = time.perf_counter(), time.process_time()
        self._optimizer.zero_grad(set_to_none=True)
        terms = self._module(batch)
        terms.total.backward()
        self._optimizer.step()
        self._done += 1
        self._module.companions.after_step(self._module.network, self._done)
        return time.perf_counter() - began, time.process_time() - began_cpu, terms.as_dict()


def measured(folder: Path, batches: list[Batch]) -> dict[str, tuple[float, float]]:
    """Median seconds of a step by row: on the clock, and of the processor."""
    trainers = {name: Trainer(folder, settings) for name, settings in ROWS.items()}
    first = {name: trainer.step(batches[0])[2] for name, trainer in trainers.items()}
    for name, terms in first.items():
        for term in _OF_EQ_14:
            if term in terms and not torch.equal(terms[term], first["PLCA"][term]):
                raise SystemExit(f"{name}: {term} is not that of PLCA")
    if trainers["PLCA"].further.companions or trainers["PLCA"].further.terms:
        raise SystemExit("PLCA alone keeps something beside its network")
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in trainers}
    for batch in batches[1:]:
        for name, trainer in trainers.items():
            times[name].append(trainer.step(batch)[:2])
    return {
        name: (statistics.median(clock for clock, _ in seconds), statistics.median(cpu for _, cpu in seconds))
        for name, seconds in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="plca-terms-time-") as scratch:
        folder = Path(scratch)
        prepare_toytown(resolve(str(folder / "data")), count=4 * parsed.steps, progress=lambda *_: None)
        config = Trainer(folder, ()).config
        with closing(open_stream(config, 0, 1, 0)) as stream:
            batches = [next(stream) for _ in range(parsed.steps)]
        repeats = [measured(folder, batches) for _ in range(parsed.repeats)]
    rows = [
        {
            "terms": name,
            "step_s": statistics.median(repeat[name][0] for repeat in repeats),
            "ratio": statistics.median(repeat[name][0] / repeat["PLCA"][0] for repeat in repeats),
            "processor_ratio": statistics.median(repeat[name][1] / repeat["PLCA"][1] for repeat in repeats),
        }
        for name in ROWS
    ]
    print(f"\n{'terms':22s}  step, s  / PLCA  processor / PLCA")
    for row in rows:
        print(f"{row['terms']:22s}  {row['step_s']:7.3f}  {row['ratio']:6.2f}  {row['processor_ratio']:16.2f}")
    print(save("terms_time", {"steps": parsed.steps, "threads": torch.get_num_threads(), "rows": rows}))


if __name__ == "__main__":
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer, line_buffering=True)
    main()
