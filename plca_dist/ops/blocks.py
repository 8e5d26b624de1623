"""The N x N computations of one pair in blocks of whole rows: the matrix library multiplies, an epilogue does the rest.

A block holds all keys of its rows: a row's maximum, σ and log-sum-exp come from the block itself, and nothing larger
than a block is ever made. The backward pass makes the scores again. Work and memory: README.md. What is computed from
blocks stands in `matching.py` and `attending.py`; here is what blocks are.

Shapes: N queries, M keys, R rows of a block, C channels of the score. Operands are matrices in the dtype of `Blocks`;
what is accumulated over blocks is float32 (float64 for float64).
"""

from collections.abc import Iterator
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

from plca_dist.ops import epilogue, multiply
from plca_dist.ops.epilogue import Softmax
from plca_dist.ops.rows import aligned, unit_rows

#: Bytes of a block on the CPU, part of an L3; measured best from 4 to 8 MiB, for few channels and for many.
_CPU_BLOCK = 8 << 20
#: Rows with which the matrix library is at its speed, and beyond which more rows gain nothing on the CPU.
_FEWEST_ROWS, _MOST_ROWS = 128, 256
#: Most bytes of a block on a GPU, and rows and columns of the tiles that its matrix library multiplies by.
_GPU_BLOCK, _GPU_TILE = 256 << 20, (128, 256)
#: Rows of a block on a GPU, in tiles: with fewer the launches cost, more gain nothing.
_GPU_ROWS = range(8, 25)


class Blocks:
    """What all computations of one pair on one device share: the dtype of operands, the rows of a block, the epilogue.

    like       a tensor of the pair: its device, and float64 or not
    products   see `settings.PRODUCTS`
    """

    def __init__(self, like: Tensor, products: str) -> None:
        self.products = products
        self.dtype = multiply.operand_dtype(like, products)
        self.exact = torch.float64 if like.dtype == torch.float64 else torch.float32
        self.processors = 0
        if like.is_cuda:
            self.processors = torch.cuda.get_device_properties(like.device).multi_processor_count
        self.epilogue = epilogue_of(like)
        self._workspace: dict[str, Tensor] = {}

    @property
    def on_gpu(self) -> bool:
        """Whether launches and waits cost more than a few numbers that nobody needs."""
        return self.processors > 0

    def operand(self, x_NC: Tensor, unit: bool = False) -> Tensor:
        """`x` as it enters products, its rows divided by their norms for `unit`; layout kept."""
        return unit_rows(x_NC, self.dtype, self.exact) if unit else x_NC.to(self.dtype)

    def zeros(self, like_BNC: Tensor) -> Tensor:
        """An accumulator in the layout of `like`."""
        return torch.zeros_like(like_BNC, dtype=self.exact)

    def _product(self, a_RC: Tensor, b_CM: Tensor, name: str = "score") -> Tensor:
        """A block, in memory that the next block of that name reuses.

        Large and small allocations in turn would leave the CPU's heap in pieces that are too small for the next block.
        """
        if self.on_gpu or a_RC.dtype == torch.bfloat16:  # torch reuses freed memory there
            product_RM = aligned(len(a_RC), b_CM.shape[1], self.exact, a_RC.device)
            multiply.mm_(product_RM, a_RC, b_CM)
            return product_RM
        size = len(a_RC) * b_CM.shape[1]
        if name not in self._workspace or len(self._workspace[name]) < size:
            self._workspace[name] = torch.empty(size, dtype=self.exact)
        return torch.mm(a_RC, b_CM, out=self._workspace[name][:size].view(len(a_RC), -1))

    def _softmax(self, query_N: Tensor) -> Softmax:
        return Softmax(*(torch.empty(len(query_N), dtype=self.exact, device=query_N.device) for _ in Softmax._fields))

    def _rows(self, query_N: Tensor, key_MC: Tensor) -> Iterator[slice]:
        """Slices of the queries, in increasing order, whose blocks of scores have the right size."""
        N, (M, C) = len(query_N), key_MC.shape
        if self.on_gpu:
            step = gpu_rows(N, M, C, self.processors)
        else:
            step = max(min(_CPU_BLOCK // (self.exact.itemsize * M) // 16 * 16, _MOST_ROWS), _FEWEST_ROWS)
        return (slice(start, min(start + step, N)) for start in range(0, N, step))


@lru_cache(maxsize=256)
def gpu_rows(N: int, M: int, C: int, processors: int) -> int:
    """Rows of the blocks of N x M scores of C channels with which a GPU of so many processors is idle least.

    A product is made of tiles, one a processor at a time; in its last round processors are idle. Counted is the time of
    a block's scores, (R, M), and of what is made of them, (R, C). Of equals the fewest rows are taken: they hold
    less memory, and attention to itself saves more.
    """
    tile, width = _GPU_TILE

    def rounds(rows: int, columns: int) -> int:
        return -(-(-(-rows // tile) * -(-columns // width)) // processors)

    def time(step: int) -> int:
        heights = [step] * (N // step) + [N % step] * (N % step > 0)
        return sum(rounds(rows, M) * C + rounds(rows, C) * M for rows in heights)

    most = max(_GPU_BLOCK // (4 * M * tile), 1)
    return min((tile * min(tiles, most) for tiles in _GPU_ROWS), key=time)


def epilogue_of(x: Tensor) -> ModuleType:
    """The module that works on the score blocks of `x`: Triton kernels on CUDA (float32), plain torch elsewhere."""
    if x.is_cuda and x.dtype != torch.float64:
        from plca_dist.ops.triton import epilogue as kernels

        return kernels
    return epilogue
