"""A hyperparameter search: which trials are tried, which go on, and what they leave."""
