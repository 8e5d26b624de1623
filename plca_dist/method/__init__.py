"""The paper, one file per group of equations; torch alone, no I/O. Start at `objective.py`."""
