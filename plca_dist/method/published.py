"""What the paper reports on Cityscapes, in percent: its ablation (Table 1) and IoU per class of PLCA.

Both were measured with DeepLab-V2 on ResNet-101 and with spatial aggregation at inference.
"""

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
