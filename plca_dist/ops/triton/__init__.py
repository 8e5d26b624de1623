"""Triton kernels of the N x N computations, for CUDA: `epilogue.py` works on a block of scores between two products of
the matrix library, `fused.py` makes the scores of few channels itself and never writes them.

Both have a twin in plain torch, which the tests compare them with. With TRITON_INTERPRET=1 set before triton is
imported the kernels run on the CPU, slowly: so they are tested without a GPU. They are imported on CUDA alone.
"""
