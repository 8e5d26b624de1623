"""IDD (Varma et al., WACV 2019): roads in India, with the 26 classes of its level 3, or as IDD Lite with 7 classes."""

from plca_dist.data.datasets.pairing import published

IDD = published(
    "idd",
    "leftImg8bit/SPLIT/DRIVE/NAME_leftImg8bit.png or .jpg, gtFine/SPLIT/DRIVE/NAME_gtFine_labellevel3Ids.png, which "
    "its own createLabels.py makes with --id-type level3Id; SPLIT is train, val or test.",
    "leftImg8bit/SPLIT/*/*_leftImg8bit*",
    "gtFine/SPLIT/*/*_gtFine_labellevel3Ids*",
    coding="idd",
    label_set="idd",
)
IDD_LITE = published(
    "idd_lite",
    "leftImg8bit/SPLIT/DRIVE/NAME_image.jpg, gtFine/SPLIT/DRIVE/NAME_label.png; SPLIT is train, val or test.",
    "leftImg8bit/SPLIT/*/*_image*",
    "gtFine/SPLIT/*/*_label*",
    coding="idd_lite",
    label_set="idd_lite",
)
