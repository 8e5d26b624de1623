"""BDD100K (Yu et al., CVPR 2020): its 10 000 images with semantic labels, coded as Cityscapes' train ids."""

from plca_dist.data.datasets.pairing import published

BDD100K = published(
    "bdd100k",
    "images/10k/SPLIT/NAME.jpg, labels/sem_seg/masks/SPLIT/NAME.png; SPLIT is train, val or test.",
    "images/10k/SPLIT/*.jpg",
    "labels/sem_seg/masks/SPLIT/*.png",
    coding="bdd100k",
)
