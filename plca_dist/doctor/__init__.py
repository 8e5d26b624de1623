"""Findings about this machine, a store, and every node of a cluster."""

import plca_dist.ray_cluster  # noqa: F401  first of all: it sets variables that Ray reads when it is imported
