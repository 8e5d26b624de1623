"""ACDC (Sakaridis et al., ICCV 2021): fog, night, rain and snow, coded as Cityscapes' train ids."""

from plca_dist.data.datasets.pairing import published

ACDC = published(
    "acdc",
    "rgb_anon/CONDITION/SPLIT/SEQUENCE/NAME_rgb_anon.png, gt/CONDITION/SPLIT/SEQUENCE/NAME_gt_labelTrainIds.png; all "
    "conditions are read; SPLIT is train, val or test.",
    "rgb_anon/*/SPLIT/*/*_rgb_anon.png",
    "gt/*/SPLIT/*/*_gt_labelTrainIds.png",
    coding="acdc",
)
