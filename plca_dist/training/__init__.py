"""One rank's life: engine, loop, checkpoints, evaluation. Nothing here knows of Ray."""
