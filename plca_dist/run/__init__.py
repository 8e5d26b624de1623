"""A training run: its directory, its driver, and everything that may interrupt it."""

import plca_dist.ray_cluster  # noqa: F401  first of all: it sets variables that Ray reads when it is imported
