"""A Ray cluster: reaching or starting one, its capacity, and what a driver and its workers tell each other."""

# First of all, because it sets variables that Ray reads when it is imported.
from plca_dist.ray_cluster import internals

__all__ = ["internals"]

#: Set in the environment of every process of a cluster that `connect.connection` started: this machine alone, without
#: a dashboard. Ray itself tells its workers of a dashboard that it has not started.
LOCAL_CLUSTER = "PLCA_LOCAL_CLUSTER"
