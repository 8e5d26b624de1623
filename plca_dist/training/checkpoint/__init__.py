"""A checkpoint from an engine to the store and back."""
