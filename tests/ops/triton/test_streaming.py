"""The streaming backend as it runs on CUDA, kernels and all, against the dense one."""

import pytest
import torch

from plca_dist.ops import autograd, blocks
from plca_dist.ops import operations as ops
from plca_dist.ops.attending import Attending
from plca_dist.ops.matching import Matching
from plca_dist.ops.settings import PRODUCTS, Pairwise
from plca_dist.ops.triton import epilogue as kernels
from plca_dist.ops.triton.few_channels import FewAttending, FewMatching


@pytest.fixture(params=["few channels", "many channels"])
def on_cuda(request, monkeypatch):
    """Channels, and the operations of CUDA on whatever device the test has."""
    few = request.param == "few channels"

    def made(kind, like, products):
        found = kind(like, products)
        found.epilogue, found.processors = kernels, 1
        return found

    kinds = (FewMatching, FewAttending) if few else (Matching, Attending)
    monkeypatch.setattr(autograd, "matching_for", lambda like, products: made(kinds[0], like, products))
    monkeypatch.setattr(autograd, "attending_for", lambda like, products, _: made(kinds[1], like, products))
    monkeypatch.setattr(blocks, "gpu_rows", lambda *_: 32)
    return 19 if few else 40


def outcome(C: int, device: str, dtype: torch.dtype, pairwise: Pairwise) -> list[torch.Tensor]:
    """Both kinds of cycle, each after its aggregation, and all gradients, in the layout of feature maps."""
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(2, C, n, generator=generator).to(device, dtype).requires_grad_() for n in (63, 70)]
    labels = torch.randint(0, 3, (2, 63), generator=generator).to(device)
    source, target = (x.mT for x in features)
    target = ops.attend(target, target, target, ratio=0.5, cosine=True, pairwise=pairwise)
    shared = ops.cycle(source, source, target, target, labels, cosine=True, pairwise=pairwise)
    p, q = (x.softmax(-1) for x in (source, target))
    q = ops.attend(q, q.log(), q, ratio=0.5, contrast=False, pairwise=pairwise)
    apart = ops.cycle(p, p.log(), q, q.log(), labels, pairwise=pairwise)
    weight = torch.rand(2, 63, generator=generator).to(device, dtype)
    total = ((shared.log_probability + apart.log_probability) * weight).sum()
    gradients = torch.autograd.grad(total, features)
    assert shared.consistent.any()
    assert apart.consistent.any()
    return [target, *shared, *apart, *gradients]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_kernels_give_the_oracles_cycles_and_gradients(on_cuda, device):
    oracle = outcome(on_cuda, device, torch.float64, Pairwise(backend="dense"))
    found = outcome(on_cuda, device, torch.float32, Pairwise(backend="streaming"))
    for f, o in zip(found, oracle, strict=True):
        if o.is_floating_point():
            assert (f - o).abs().max() <= 1e-5 * o.abs().max()
        else:
            assert torch.equal(f, o)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_kernels_give_exact_associations_out_of_bfloat16(on_cuda, device, emulated_bf16):
    """Positions that differ by less than bfloat16 can tell."""
    generator = torch.Generator().manual_seed(0)
    group, noise = torch.randn(2, 5, on_cuda, generator=generator)
    source, target = ((group.repeat(8, 1) + 1e-4 * noise.repeat(8, 1).cumsum(0))[None, :n] for n in (25, 30))
    labels = torch.randint(0, 2, (1, 25), generator=generator).to(device)

    def cycle(dtype, pairwise):
        x, y = source.to(device, dtype), target.to(device, dtype)
        return ops.cycle(x, x, y, y, labels, cosine=True, pairwise=pairwise)

    found = cycle(torch.float32, Pairwise("bf16"))
    oracle = cycle(torch.float64, Pairwise(backend="dense"))
    assert torch.equal(found.target_index, oracle.target_index)
    assert torch.equal(found.source_index, oracle.source_index)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("C", [19, 2048])
def test_cuda_picks_the_kernels_and_repeats_itself(C, products):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(1, C, 8464, generator=generator).cuda().requires_grad_() for _ in range(2)]
    labels = torch.randint(0, 3, (1, 8464), generator=generator).cuda()
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for _ in range(2):
            source, target = (x.mT for x in inputs)
            target = ops.attend(target, target, target, ratio=0.5, cosine=True, pairwise=Pairwise(products))
            found = ops.cycle(source, source, target, target, labels, cosine=True, pairwise=Pairwise(products))
            runs.append([*found, *torch.autograd.grad(found.log_probability.sum(), inputs)])
    finally:
        torch.use_deterministic_algorithms(False)
    matching = autograd.matching_for(source, products)
    assert type(matching) is (FewMatching if C == 19 else Matching)
    assert matching.epilogue is kernels
    assert matching.on_gpu
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
