"""A Ray cluster: reaching or starting one, its capacity, and what a driver and its workers tell each other."""

#: Set in the environment of every process of a cluster that `cluster.connection` started: this machine alone, without a
#: dashboard. Ray itself tells its workers of a dashboard that it has not started.
LOCAL_CLUSTER = "PLCA_LOCAL_CLUSTER"
