"""Triton kernels of the N x N computations, for CUDA: `epilogue.py` works on a block of scores between two products of
the matrix library, `fused.py` makes the scores of few channels itself and never writes them.

Both twin code in plain torch and are compared with it. Where TRITON_INTERPRET=1 was set before triton was imported the
kernels run on the CPU, slowly; that is how they are tested without a GPU. Nothing here is imported without need.
"""
