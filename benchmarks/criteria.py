"""How well the label-free criteria put the trials of searches in the order of target mIoU.

    python -m benchmarks.criteria NAME=SEARCH [NAME=SEARCH …]

SEARCH is the directory of a search whose target has labels. The criteria are measured again, on the weights that its
finished trials left and the first 32 pairs of their training shards, so that one code measures all of them.
"""

import sys
from dataclasses import replace
from typing import Any

from benchmarks.common import save
from plca_dist.data.whole_images import whole_pairs
from plca_dist.recipe import parse
from plca_dist.run_files import BASE
from plca_dist.search.directory import Search, open_search
from plca_dist.search.space import parse_space
from plca_dist.search.trials import LABELLED, correlations, score
from plca_dist.storage import Location, probe
from plca_dist.training import criteria, metrics
from plca_dist.training.dataloading import open_shards
from plca_dist.training.trained import load_trained

IMAGES = 32


def opened(uri: str) -> Search:
    store = probe(uri)
    base = parse(store.read(BASE).decode())
    return open_search(parse_space(store.read("space.yaml").decode()), base, uri.rstrip("/").rpartition("/")[2])


def measured(search: Search) -> dict[str, Any]:
    trials = []
    for trial in search.read():
        if trial.state != "finished":
            continue
        found = load_trained(Location(search.trials.child(trial.name).uri))
        config = found.config
        assert config
        domains = open_shards(config, config.source.uri), open_shards(config, config.target.uri)
        pairs = whole_pairs(*domains, found.labels, IMAGES, 0, 1)
        values = criteria.measure(found.network, pairs, size=config.evaluation.size).result()
        miou = score(trial, LABELLED)
        trials.append(replace(trial, curve=[{metrics.STEP: trial.step, metrics.MIOU: miou, **values}]))
        print(trial.name, dict(trial.values), f"{miou:.1f}", {k: round(v, 3) for k, v in values.items()}, flush=True)
    return {
        "steps": trials[0].steps,
        "correlations": {name: c._asdict() for name, c in correlations(trials).items()},
        "trials": [{"values": dict(t.values), **t.curve[0]} for t in trials],
    }


def main() -> None:
    result = {}
    for argument in sys.argv[1:]:
        name, _, uri = argument.partition("=")
        result[name] = measured(opened(uri))
    for name, one in result.items():
        print(name, {k: (round(c["rho"], 2), c["n"]) for k, c in one["correlations"].items()})
    print(save("criteria", {"images": IMAGES, "searches": result}))


if __name__ == "__main__":
    main()
