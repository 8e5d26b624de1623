"""What is reported on Cityscapes, in percent: the paper's ablation (Table 1), IoU per class of PLCA, other methods.

All were measured with DeepLab-V2 on ResNet-101; PLCA with spatial aggregation at inference.
"""

from typing import NamedTuple

#: mIoU of the rows of `objective.ABLATION`, of 19 classes from GTAV and of 16 from SYNTHIA.
PUBLISHED: dict[str, dict[str, float]] = {
    "source_only": {"gtav": 31.5, "synthia": 35.4},
    "lovasz": {"gtav": 34.3, "synthia": 36.4},
    "feature": {"gtav": 39.7, "synthia": 40.9},
    "prediction": {"gtav": 47.4, "synthia": 46.3},
    "plca": {"gtav": 47.7, "synthia": 46.8},
    "sim_plca": {"gtav": 41.8, "synthia": 42.5},
    "no_aggregation": {"gtav": 45.6, "synthia": 44.6},
}

#: IoU of PLCA by class, by the data set it was trained on.
CLASSES: dict[str, dict[str, float]] = {
    "gtav": {
        "road": 84.0, "sidewalk": 30.4, "building": 82.4, "wall": 35.3, "fence": 24.8, "pole": 32.2,
        "traffic light": 36.8, "traffic sign": 24.5, "vegetation": 85.5, "terrain": 37.2, "sky": 78.6, "person": 66.9,
        "rider": 32.8, "car": 85.5, "truck": 40.4, "bus": 48.0, "train": 8.8, "motorcycle": 29.8, "bicycle": 41.8,
    },
    "synthia": {
        "road": 82.6, "sidewalk": 29.0, "building": 81.0, "wall": 11.2, "fence": 0.2, "pole": 33.6,
        "traffic light": 24.9, "traffic sign": 18.3, "vegetation": 82.8, "sky": 82.3, "person": 62.1, "rider": 26.5,
        "car": 85.6, "bus": 48.9, "motorcycle": 26.8, "bicycle": 52.2,
    },
}  # fmt: skip


class Published(NamedTuple):
    """mIoU of a method: of 19 classes from GTAV and of 16 from SYNTHIA; None where it was not reported.

    Attributes:
        title: as its authors call it.
        remark: what sets the figures apart from a single network at its last weights.
    """

    title: str
    gtav: float | None
    synthia: float | None
    remark: str = ""

    def score(self, dataset: str) -> float | None:
        return {"gtav": self.gtav, "synthia": self.synthia}[dataset]


_BEST = "best snapshot by target labels"
_TWO = f"two levels, {_BEST}"

#: The methods of the paper's Tables 2 and 3 and some later ones, by the names of `methods.yaml` where it has them. Code
#: bases differ: source-only had 36.9 in that of maximum squares and 33.4 in that of CBST, from GTAV.
METHODS: dict[str, Published] = {
    "adaptseg": Published("AdaptSegNet", 42.4, 39.6, _TWO),
    "minent": Published("MinEnt", 42.2, 38.1, _BEST),
    "advent": Published("AdvEnt", 43.8, 40.8, _TWO),
    "max_square": Published("MaxSquare", 44.3, None, _BEST),
    "max_square_iw": Published("MaxSquare + IW", 45.2, None, _BEST),
    "cbst": Published("CBST", 46.5, None, "several scales at test"),
    "lrent": Published("CRST-LRENT", 46.5, None, "several scales at test"),
    "mrkld": Published("CRST-MRKLD", 47.4, None, "several scales at test"),
    "fda": Published("FDA", 44.6, None, "without self-training"),
    "class_mix": Published("DACS", 52.1, 48.3, "from weights of COCO"),
}

#: Those of the tables that are not built here, and ensembles of what is.
NOT_BUILT: dict[str, Published] = {
    "advent_minent": Published("AdvEnt + MinEnt (two networks)", 45.5, 41.2, _BEST),
    "max_square_multi": Published("MaxSquare + IW, two levels", 46.4, 41.4, _BEST),
    "clan": Published("CLAN", 43.2, None),
    "ssf_dan": Published("SSF-DAN", 45.4, None),
    "dise": Published("DISE", 45.4, 41.5),
    "patch_align": Published("PatchAlign", 46.5, 40.0),
}
