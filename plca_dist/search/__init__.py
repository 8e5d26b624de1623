"""A hyperparameter search: which trials are tried, which go on, and what they leave."""

import plca_dist.ray_cluster  # noqa: F401  first of all: it sets variables that Ray reads when it is imported
