"""The N x N operations that carry the whole paper; README.md has the derivation. Start at `operations.py`."""
