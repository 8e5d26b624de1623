"""A training run: its directory, its driver, and everything that may interrupt it."""
