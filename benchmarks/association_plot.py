"""Time and peak memory against N, dense and streaming, from results/association.json to docs/images/association.png.

python benchmarks/association_plot.py
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
from common import RESULTS

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "association.png"


def main() -> None:
    results = json.loads((RESULTS / "association.json").read_text())
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for name, case, color in (("dense", "growth_dense", "#D55E00"), ("streaming", "growth", "#0072B2")):
        rows = results[case]["rows"]
        positions = [row["positions"] for row in rows]
        for axis, quantity in zip(axes, ("seconds", "peak_mb"), strict=True):
            axis.loglog(positions, [row[quantity] for row in rows], "o-", color=color, label=name)
    ticks = [row["positions"] for row in results["growth"]["rows"]]
    for axis, title, unit in zip(axes, ("Time", "Peak memory"), ("s", "MB above the inputs"), strict=True):
        axis.set(title=title, xlabel="positions N of each image", ylabel=unit)
        axis.set_xticks(ticks, [f"{round(n**0.5)}²" for n in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    environment = results["environment"]
    figure.suptitle(
        f"Both association losses with aggregation, forward and backward, {results['growth']['channels']} channels, "
        f"float32, {environment['processor']} ({results['threads']} threads)",
        fontsize=9,
    )
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=130)
    print(PICTURE)


if __name__ == "__main__":
    main()
