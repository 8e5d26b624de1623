"""One rank's life: engine, loop, checkpoints, evaluation. Nothing here knows of Ray."""

from plca_dist.training.checkpoint.internals import quieten

quieten()  # here, because DeepSpeed warns while it is imported
