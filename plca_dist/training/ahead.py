"""The next batch while this one is computed: put together in a thread, and copied to a GPU on a stream of its own."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from plca_dist.data.read_ahead import read_ahead
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
        self._ahead = read_ahead(self._prepared(), 1)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch, self.skipped, copied = next(self._ahead)
        if copied is not None:
            now = torch.cuda.current_stream(self._device)
            now.wait_event(copied)
            for tensor in batch:
                if tensor is not None and tensor.is_cuda:
                    tensor.record_stream(now)  # its memory is not used again before the work that reads it
        return batch

    def _prepared(self) -> Iterator["_Prepared"]:
        while True:
            batch = next(self._stream)
            if self._copies is None:
                yield _Prepared(batch, self._stream.skipped, None)
                continue
            with torch.cuda.stream(self._copies):
                on_gpu = batch.pinned().to(self._device)
                copied = self._copies.record_event()
            yield _Prepared(on_gpu, self._stream.skipped, copied)

    def close(self) -> None:
        self._stream.close()  # first: the thread may be waiting for data
        self._ahead.close()
