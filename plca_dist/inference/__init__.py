"""Evaluation, prediction and export of trained networks, in one process or over a cluster."""
