"""A batch ahead, and nothing else: the same batches in the same order, and errors at the batch that has them."""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import torch

from plca_dist.config import Config
from plca_dist.errors import UserError
from plca_dist.training.ahead import Ahead
from plca_dist.training.dataloading import open_stream

CPU = torch.device("cpu")


def ahead_of(config: Config, device: torch.device) -> Ahead:
    return Ahead(open_stream(config, 0, 1, 0), device)


class Counted:
    """A stream of numbers in place of batches, of which some cannot be had."""

    def __init__(self, broken: int = 10**9) -> None:
        self.skipped = self.made = 0
        self.closed, self._broken = False, broken

    def __next__(self) -> Any:
        self.made += 1
        self.skipped += 2
        if self.made == self._broken:
            raise UserError("a shard is damaged.")
        return self.made

    def close(self) -> None:
        self.closed = True


def test_batches_are_those_of_the_stream(make_config: Callable[..., Config]) -> None:
    with closing(open_stream(make_config(), 0, 1, 0)) as plain, closing(ahead_of(make_config(), CPU)) as ahead:
        for _ in range(4):
            assert all(torch.equal(a, b) for a, b in zip(next(plain), next(ahead), strict=True))  # type: ignore[arg-type]


def test_one_batch_is_made_ahead_and_its_skipped_samples_are_counted_with_it() -> None:
    stream = Counted()
    with closing(Ahead(stream, CPU)) as ahead:  # type: ignore[arg-type]
        for number in (1, 2, 3):
            assert next(ahead) == number
            assert ahead.skipped == 2 * number
        deadline = time.monotonic() + 10
        while stream.made < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)  # for one too many
        assert stream.made == 4
    assert stream.closed
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("plca-read-ahead")]


def test_an_error_comes_with_its_batch_and_not_before() -> None:
    with closing(Ahead(Counted(broken=3), CPU)) as ahead:  # type: ignore[arg-type]
        assert [next(ahead), next(ahead)] == [1, 2]
        with pytest.raises(UserError, match="damaged"):
            next(ahead)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_arrive_on_the_gpu_whole(make_config: Callable[..., Config]) -> None:
    gpu = torch.device("cuda", 0)
    with closing(open_stream(make_config(), 0, 1, 0)) as plain, closing(ahead_of(make_config(), gpu)) as ahead:
        for _ in range(8):
            found = next(ahead)
            torch.cuda._sleep(10**7)  # the copy of the next one goes on beside it
            for expected, tensor in zip(next(plain), found, strict=True):
                assert tensor is not None
                assert tensor.is_cuda
                assert torch.equal(tensor.cpu(), expected)  # type: ignore[arg-type]
