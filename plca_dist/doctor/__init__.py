"""Findings about this machine, a store, and every node of a cluster."""
