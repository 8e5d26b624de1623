"""Virtual KITTI 2 (Cabon et al., 2020): drawn copies of KITTI's drives, with a colour for each of its classes."""

from plca_dist.data.datasets.pairing import published

VIRTUAL_KITTI = published(
    "virtual_kitti",
    "SCENE/VARIATION/frames/rgb/CAMERA/rgb_NUMBER.jpg, "
    "SCENE/VARIATION/frames/classSegmentation/CAMERA/classgt_NUMBER.png; all scenes, variations and cameras are read.",
    "*/*/frames/rgb/*/rgb_*.jpg",
    "*/*/frames/classSegmentation/*/classgt_*.png",
    coding="virtual_kitti",
)
