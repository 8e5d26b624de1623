"""The next batch while this one is computed: put together in a thread, and copied to a GPU on a stream of its own."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import NamedTuple

import torch

from plca_dist.data.stream import Batch, Stream


class _Prepared(NamedTuple):
    """A batch, the samples skipped up to it, and when its copy to the GPU has ended."""

    batch: Batch
    skipped: int
    copied: torch.cuda.Event | None


class Ahead:
    """The batches of a stream on the device where they are wanted, one ahead. Closing it closes the stream.

    A GPU gets them from pinned memory: the host does not wait for the copy, and the copy not for the work before it.

    Attributes:
        skipped: samples that took the place of a damaged one, up to the batch that was given out last.
    """

    def __init__(self, stream: Stream, device: torch.device) -> None:
        self.skipped = 0
        self._stream, self._device = stream, device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="plca-ahead")
        self._next: Future[_Prepared] = self._thread.submit(self._prepare)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch, self.skipped, copied = self._next.result()
        self._next = self._thread.submit(self._prepare)
        if copied is not None:
            now = torch.cuda.current_stream(self._device)
            now.wait_event(copied)
            for tensor in batch:
                if tensor is not None:
                    tensor.record_stream(now)  # its memory is not used again before the work that reads it
        return batch

    def _prepare(self) -> "_Prepared":
        batch = next(self._stream)
        if self._copies is None:
            return _Prepared(batch, self._stream.skipped, None)
        with torch.cuda.stream(self._copies):
            on_gpu = batch.pinned().to(self._device)
            return _Prepared(on_gpu, self._stream.skipped, self._copies.record_event())

    def close(self) -> None:
        with ExitStack() as ending:
            ending.callback(self._thread.shutdown)
            self._stream.close()
