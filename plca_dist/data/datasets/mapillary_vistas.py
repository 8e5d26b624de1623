"""Mapillary Vistas 1.2 (Neuhold et al., ICCV 2017): streets of the world, its 66 numbers as Cityscapes' classes."""

from plca_dist.data.datasets.pairing import published

MAPILLARY_VISTAS = published(
    "mapillary_vistas",
    "FOLDER/images/NAME.jpg, FOLDER/labels/NAME.png of version 1.2; FOLDER is training for the split train, validation "
    "for val, testing for test.",
    "SPLIT/images/*.jpg",
    "SPLIT/labels/*.png",
    coding="mapillary_vistas",
    train="training",
    val="validation",
    test="testing",
)
