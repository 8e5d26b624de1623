"""What a person reads of a run: progress lines, per-class tables, mask panels, curves, and one page of all of it."""
