"""Synscapes (Wrenninge and Unger, 2018): 25 000 rendered streets, with Cityscapes' label ids."""

from plca_dist.data.datasets.pairing import published

SYNSCAPES = published(
    "synscapes",
    "img/rgb/NUMBER.png, img/class/NUMBER.png.",
    "img/rgb/*.png",
    "img/class/*.png",
    coding="cityscapes_label_ids",
)
