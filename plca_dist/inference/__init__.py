"""Evaluation, prediction and export of trained networks, in one process or over a cluster."""

import plca_dist.ray_cluster  # noqa: F401  first of all: it sets variables that Ray reads when it is imported
