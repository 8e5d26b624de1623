"""CARLA (Dosovitskiy et al., CoRL 2017), 0.9.14 and newer: frames of its RGB camera and raw ones of its semantic one.

The simulator writes where its user says: this is the layout of its frames here. `folder` reads any other one with the
coding `carla`.
"""

from plca_dist.data.datasets.pairing import published

CARLA = published(
    "carla",
    "rgb/FRAME.png, semantic/FRAME.png as the sensors save them raw, in subfolders too; of other places, folder with "
    "--labels carla.",
    "rgb/**/*",
    "semantic/**/*",
    coding="carla",
)
