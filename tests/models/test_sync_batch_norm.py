"""Batch norm over two ranks is batch norm over both their batches at once, and waits for no GPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from plca_dist.models.sync_batch_norm import SyncBatchNorm, synchronized
from tests.host_waits import HostWaits

C = 6
DTYPES = (torch.float32, torch.bfloat16)


def images(dtype: torch.dtype) -> Tensor:
    """Two for each rank; the ranks' differ much."""
    torch.manual_seed(1)
    shift = torch.tensor([0.0, 0.0, 8.0, 8.0])[:, None, None, None]
    return (torch.randn(4, C, 5, 7) + shift).to(dtype)


def layer(kind: Callable[..., nn.BatchNorm2d] = nn.BatchNorm2d) -> nn.Module:
    torch.manual_seed(2)
    made = nn.Sequential(kind(C, momentum=0.3))
    nn.init.normal_(made[0].weight)
    nn.init.normal_(made[0].bias)
    return made


def passed(module: nn.Module, x: Tensor, pull: Tensor) -> dict[str, Tensor]:
    x.requires_grad_()
    y = module(x)
    (y.float() * pull).sum().backward()
    assert x.grad is not None
    gradients = {f"d{name}": p.grad for name, p in module.named_parameters()}
    return {"y": y.detach(), "dx": x.grad, **gradients, **dict(module.named_buffers())}


def rank(number: int, place: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{place}/rendezvous", rank=number, world_size=2)
    found: dict[Any, Any] = {}
    for dtype in DTYPES:
        for layout in (torch.contiguous_format, torch.channels_last):
            mine = images(dtype)[2 * number : 2 * number + 2].to(memory_format=layout)
            part = pull()[2 * number : 2 * number + 2]
            with HostWaits() as waits:
                of_case = passed(synchronized(layer()), mine, part)
            found[str(dtype), str(layout)] = {**of_case, "waits": waits.places}
    activated = synchronized(layer(BatchNormAct2d))
    mine, part = images(torch.float32)[2 * number : 2 * number + 2], pull()[2 * number : 2 * number + 2]
    found["activated"] = {**passed(activated, mine, part), "waits": []}
    torch.save(found, f"{place}/rank{number}.pt")
    dist.destroy_process_group()


def pull() -> Tensor:
    return torch.randn(4, C, 5, 7, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    place = tmp_path_factory.mktemp("ranks")
    mp.spawn(rank, (str(place),), nprocs=2)
    return [torch.load(Path(place) / f"rank{number}.pt", weights_only=False) for number in (0, 1)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_batch_norm_of_both_batches(ranks: list[Any], dtype: torch.dtype, layout: torch.memory_format) -> None:
    first, second = (found[str(dtype), str(layout)] for found in ranks)
    whole = passed(layer(), images(dtype).float(), pull())
    close: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 3e-2}
    for key in ("y", "dx"):
        assert first[key].dtype == dtype
        torch.testing.assert_close(torch.cat([first[key], second[key]]).float(), whole[key], **close)
    for key in ("d0.weight", "d0.bias"):  # the engine takes the mean over ranks
        torch.testing.assert_close(first[key] + second[key], whole[key], rtol=close["rtol"], atol=20 * close["atol"])
    for key in ("0.running_mean", "0.running_var", "0.num_batches_tracked"):
        assert torch.equal(first[key], second[key])
        torch.testing.assert_close(first[key], whole[key], **close)


def test_it_waits_for_no_gpu(ranks: list[Any]) -> None:
    assert [of_case["waits"] for found in ranks for of_case in found.values()] == [[]] * 10


def test_what_timms_batch_norm_does_afterwards_is_done(ranks: list[Any]) -> None:
    """Its activation is a part of the layer."""
    whole = passed(layer(BatchNormAct2d), images(torch.float32), pull())
    assert (whole["y"] == 0).any()
    for key in ("y", "dx"):
        torch.testing.assert_close(torch.cat([found["activated"][key] for found in ranks]), whole[key])


def test_a_layer_that_may_do_more_is_not_taken_for_batch_norm() -> None:
    class More(nn.BatchNorm2d):
        pass

    with pytest.raises(AssertionError, match="More may do more"):
        synchronized(nn.Sequential(More(C)))


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormAct2d])
def test_names_and_values_stay(kind: type[nn.BatchNorm2d]) -> None:
    made = synchronized(layer(kind))
    assert isinstance(made[0], SyncBatchNorm)
    assert list(made.state_dict()) == list(layer(kind).state_dict())
    assert torch.equal(made.eval()(images(torch.float32)), layer(kind).eval()(images(torch.float32)))


def test_one_rank_and_evaluation_are_plain_batch_norm() -> None:
    made = synchronized(layer())
    assert isinstance(made[0], SyncBatchNorm)
    x = images(torch.float32)
    assert torch.equal(made(x), layer()(x))
    assert torch.equal(made.eval()(x), made(x))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernels_of_cuda_say_what_plain_torch_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On one rank that takes itself for two: the sums are doubled, which changes no mean."""
    from plca_dist.models import sync_batch_norm as under_test

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        both: Callable[[Tensor], Tensor] = lambda x: torch.stack([x, x])  # noqa: E731
        monkeypatch.setattr(under_test, "_gathered", both)
        monkeypatch.setattr(dist, "get_world_size", lambda: 2)
        monkeypatch.setattr(dist, "all_reduce", lambda x: x.mul_(2))
        for dtype in DTYPES:
            for layout in (torch.contiguous_format, torch.channels_last):
                x = images(dtype).to(memory_format=layout)
                plain = passed(synchronized(layer()), x.clone(memory_format=torch.preserve_format), pull())
                torch.cuda.set_sync_debug_mode("error")
                on_gpu = passed(synchronized(layer()).cuda(), x.cuda(), pull().cuda())
                torch.cuda.set_sync_debug_mode("default")
                for key, value in plain.items():
                    torch.testing.assert_close(on_gpu[key].cpu(), value, rtol=2e-2, atol=2e-2)
    finally:
        dist.destroy_process_group()
