"""The streaming backend against the dense one: every output, every gradient, what it multiplies and what it holds."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress

import pytest
import torch

from plca_dist.ops import blocks, multiply
from plca_dist.ops import operations as ops
from plca_dist.ops.multiply import rounding
from plca_dist.ops.settings import PRODUCTS, Pairwise

DENSE, STREAMING = Pairwise(backend="dense"), Pairwise(backend="streaming")

#: Largest difference to the oracle in float64, relative to the largest value: of any output, of any gradient.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
#: With operands in bfloat16: root mean square of the difference over that of the values, and the worst element.
BF16_RMS, BF16_WORST = 2e-2, 1e-1
SIZES = [(1, 1), (1, 63), (63, 1), (63, 100), (100, 63), (257, 257)]

Operation = Callable[..., list[torch.Tensor]]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels_of(B: int, N: int) -> torch.Tensor:
    """Three classes, and every seventh position without a label."""
    labels = torch.randint(0, 3, (B, N), generator=torch.Generator().manual_seed(9))
    labels[:, 6::7] = 255
    return labels


def match(q: torch.Tensor, k: torch.Tensor, **how: object) -> list[torch.Tensor]:
    return [ops.match(q, k, **how).log_probability]


def match_cosine(q: torch.Tensor, k: torch.Tensor, **how: object) -> list[torch.Tensor]:
    return [ops.match(q, k, cosine=True, **how).log_probability]


def attend(q: torch.Tensor, k: torch.Tensor, **how: object) -> list[torch.Tensor]:
    value = torch.cat([k, k.square()], -1)
    return [ops.attend(q, k, value, **how), ops.attend(q, k, value, contrast=False, **how)]


def attend_itself(q: torch.Tensor, k: torch.Tensor, **how: object) -> list[torch.Tensor]:
    """Double use of one tensor: query, key and value, and query and key alone."""
    return [
        ops.attend(q, q, q, cosine=True, ratio=0.5, **how),
        ops.attend(k, k, k.square(), cosine=True, ratio=0.3, **how),
        ops.attend(k, k, k, contrast=False, **how),
    ]


def attend_cosine(q: torch.Tensor, k: torch.Tensor, **how: object) -> list[torch.Tensor]:
    return [ops.attend(q, k, q.square() if len(q[0]) == len(k[0]) else k, cosine=True, **how)]


def cycle_shared(q: torch.Tensor, k: torch.Tensor, **how: object) -> list[torch.Tensor]:
    found = ops.cycle(q, q, k, k, labels_of(*q.shape[:2]), cosine=True, **how)
    return [found.log_probability, found.consistent, found.source_index, found.target_index]


def cycle_apart(q: torch.Tensor, k: torch.Tensor, **how: object) -> list[torch.Tensor]:
    found = ops.cycle(q, q + 0.1 * q.cos(), k, k + 0.1 * k.sin(), labels_of(*q.shape[:2]), **how)
    return [found.log_probability, found.consistent, found.source_index, found.target_index]


OPERATIONS = [match, match_cosine, attend, attend_itself, attend_cosine, cycle_shared, cycle_apart]


def outcome(operation: Operation, inputs: list[torch.Tensor], **how: object) -> list[torch.Tensor]:
    """Outputs and the gradients of all inputs under weights that differ from element to element."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    outputs = operation(*leaves, **how)
    real = [x for x in outputs if x.is_floating_point()]
    total = sum((x * draw(*x.shape, seed=7 + i).to(x.dtype)).sum() for i, x in enumerate(real))
    gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    return [*outputs, *(torch.zeros_like(x) if g is None else g for x, g in zip(leaves, gradients, strict=True))]


def assert_agree(found: list[torch.Tensor], oracle: list[torch.Tensor], tolerance: float, least: float = 1e-3) -> None:
    """`least` stands in for the largest value where that is smaller."""
    for f, o in zip(found, oracle, strict=True):
        if o.is_floating_point():
            assert (f.double() - o).abs().max() <= tolerance * max(o.abs().max().item(), least)
        else:
            assert torch.equal(f, o)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("N", "M"), SIZES)
def test_outputs_and_gradients_are_the_oracles(operation, dtype, N, M):
    inputs = [draw(2, N, 33).to(dtype), draw(2, M, 33, seed=1).to(dtype)]
    oracle = outcome(operation, [x.double() for x in inputs], pairwise=DENSE)
    # The gradient of a single candidate's weight is 0, the difference of two equal numbers of about 10.
    assert_agree(outcome(operation, inputs, pairwise=STREAMING), oracle, TOLERANCE[dtype], 10 if M == 1 else 1e-3)


@pytest.mark.usefixtures("small_blocks", "emulated_bf16")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_bf16_operands_stay_within_their_rounding(operation):
    """Every query has one key that is clearly its best, so that no index depends on the rounding; scores of about 1."""
    query = 0.35 * draw(2, 100, 64).float()
    key = torch.cat([query.flip(1), 0.35 * draw(2, 30, 64, seed=2).float()], 1)
    key += 0.2 * draw(2, 130, 64, seed=1).float()
    oracle = outcome(operation, [query.double(), key.double()], pairwise=DENSE)
    found = outcome(operation, [query, key], pairwise=Pairwise("bf16", "streaming"))
    for f, o in zip(found, oracle, strict=True):
        if o.is_floating_point():
            assert f.dtype == torch.float32
            assert (f - o).square().mean().sqrt() <= BF16_RMS * o.square().mean().sqrt()
            assert (f - o).abs().max() <= BF16_WORST * o.abs().max()
            assert (f - o).abs().max() > 1e-5 * o.abs().max(), "nothing was rounded"
        else:
            assert torch.equal(f, o)


@pytest.mark.parametrize("products", PRODUCTS)
def test_the_cpu_allows_lower_products_and_stays_close(products):
    inputs = [draw(1, 100, 64).float(), draw(1, 130, 64, seed=1).float()]
    oracle = outcome(attend_itself, [x.double() for x in inputs], pairwise=DENSE)
    for f, o in zip(outcome(attend_itself, inputs, pairwise=Pairwise(products, "streaming")), oracle, strict=True):
        assert (f - o).square().mean().sqrt() <= BF16_RMS * o.square().mean().sqrt()


@pytest.mark.usefixtures("small_blocks")
def test_indices_of_equal_scores_are_the_oracles():
    """Few distinct vectors of small integers: exact scores, ties everywhere."""
    inputs = [draw(2, n, 5, seed=n).mul(1.5).round() for n in (100, 63)]
    found, oracle = (
        ops.cycle(*[inputs[0]] * 2, *[inputs[1]] * 2, labels_of(2, 100), pairwise=b) for b in (STREAMING, DENSE)
    )
    assert torch.equal(found.target_index, oracle.target_index)
    assert torch.equal(found.source_index, oracle.source_index)


@pytest.mark.parametrize("operation", [cycle_shared, cycle_apart])
@pytest.mark.parametrize("case", ["all ignored", "no cycle", "every cycle"])
def test_cycles_at_the_ends_of_what_labels_allow(operation, case, monkeypatch):
    labels = {"all ignored": torch.full((2, 63), 255), "no cycle": torch.arange(63).repeat(2, 1)}
    inputs = [draw(2, 63, 8), draw(2, 40, 8, seed=1)]
    if case == "no cycle":
        inputs[1] = -inputs[0][:, :1].expand(2, 40, 8) + 1e-3 * inputs[1]
    monkeypatch.setattr(sys.modules[__name__], "labels_of", lambda B, N: labels.get(case, torch.zeros(2, 63)))
    oracle = outcome(operation, inputs, pairwise=DENSE)
    assert_agree(outcome(operation, inputs, pairwise=STREAMING), oracle, 1e-10)
    share = oracle[1].double().mean()
    assert share == {"all ignored": 0, "every cycle": 1}.get(case, share)
    assert share < 0.1 or case == "every cycle"


@pytest.mark.parametrize("operation", [attend_itself, cycle_shared, cycle_apart])
def test_layout_of_the_inputs_does_not_matter(operation):
    inputs = [draw(2, 50, 12), draw(2, 41, 12, seed=1)]
    expected = outcome(operation, inputs, pairwise=STREAMING)
    views = [x.mT.contiguous().mT for x in inputs], [torch.cat([x, x], -1)[..., :12] for x in inputs]
    for view in views:
        assert not view[0].is_contiguous()
        assert_agree(outcome(operation, view, pairwise=STREAMING), expected, 1e-12)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_two_runs_give_the_same_bits(operation):
    inputs = [draw(2, 100, 16).float(), draw(2, 130, 16, seed=1).float()]
    first, second = (outcome(operation, inputs, pairwise=STREAMING) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_without_gradients_the_outputs_are_the_same(operation):
    inputs = [draw(2, 40, 6), draw(2, 40, 6, seed=1)]
    with torch.no_grad():
        found = operation(*inputs, pairwise=STREAMING)
    assert not any(x.requires_grad for x in found)
    expected = outcome(operation, inputs, pairwise=STREAMING)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=False))


def test_only_the_source_may_need_a_gradient():
    source, target = draw(1, 30, 6).requires_grad_(), draw(1, 20, 6, seed=1)
    whole = torch.autograd.grad(cycle_shared(source, target, pairwise=DENSE)[0].sum(), source)
    found = torch.autograd.grad(cycle_shared(source, target, pairwise=STREAMING)[0].sum(), source)
    torch.testing.assert_close(found, whole)


@pytest.mark.parametrize("operation", [attend_itself, cycle_shared])
def test_bfloat16_inputs_get_bfloat16_gradients_rounded_once(operation):
    inputs = [draw(1, 60, 16).bfloat16(), draw(1, 50, 16, seed=1).bfloat16()]
    found = outcome(operation, inputs, pairwise=STREAMING)
    oracle = outcome(operation, [x.float() for x in inputs], pairwise=STREAMING)
    assert found[0].dtype == torch.float32
    assert_agree(found[:1], oracle[:1], 1e-6)
    gradient, exact = found[-2], oracle[-2]
    assert gradient.dtype == torch.bfloat16
    assert ((gradient.float() - exact).abs() <= 2**-8 * exact.abs() + 1e-9).all()


def test_second_derivatives_are_refused():
    q = draw(1, 5, 3).requires_grad_()
    for operation in (match, attend, attend_itself, cycle_shared, cycle_apart):
        total = sum(x.sum() for x in operation(q, q * 2, pairwise=STREAMING) if x.requires_grad)
        with pytest.raises(RuntimeError, match="first derivatives only"):
            torch.autograd.grad(total, q, create_graph=True)


def test_a_process_wide_setting_of_products_changes_nothing_and_stays():
    inputs = [draw(1, 64, 64).float(), draw(1, 64, 64, seed=1).float()]
    expected = outcome(attend_itself, inputs, pairwise=STREAMING)
    before = torch.backends.mkldnn.matmul.fp32_precision
    try:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        found = outcome(attend_itself, inputs, pairwise=STREAMING)
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(("products", "setting"), [("float32", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")])
def test_cuda_rounds_as_the_setting_says_and_is_set_back(products, setting, monkeypatch):
    """And Triton launches its kernels on the device of the tensors."""
    monkeypatch.setattr("plca_dist.ops.multiply.without_autocast", lambda device: nullcontext())
    current = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: current.append(device) or nullcontext())
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    with suppress(ZeroDivisionError), rounding(torch.device("cuda", 1), products):
        assert matmul.fp32_precision == setting
        assert current == [torch.device("cuda", 1)]
        _ = 1 / 0
    assert matmul.fp32_precision == before


COMPILED = """
import torch
from plca_dist.ops import operations as ops
from plca_dist.ops.settings import Pairwise
streaming = Pairwise(backend="streaming")
def loss(q, k):
    found = ops.match(2 * q, k, pairwise=streaming).log_probability
    return found.sum() + ops.attend(q, k, q, pairwise=streaming).sum()
leaves = [torch.randn(1, 20, 4, dtype=torch.float64).requires_grad_() for _ in range(2)]
expected = loss(*leaves)
found = torch.compile(loss, backend="aot_eager")(*leaves)
torch.testing.assert_close(found, expected)
for f, e in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves)):
    torch.testing.assert_close(f, e)
torch._dynamo.reset()
try:
    torch.compile(loss, backend="aot_eager", fullgraph=True)(*leaves)
except torch._dynamo.exc.Unsupported:
    print("refused")
"""


def test_compiled_code_runs_it_outside_the_graph_or_says_so():
    """In a process of its own: other tests switch the compiler off for theirs."""
    environment = {name: value for name, value in os.environ.items() if name != "TORCHDYNAMO_DISABLE"}
    assert subprocess.check_output([sys.executable, "-c", COMPILED], text=True, env=environment) == "refused\n"


def test_meta_tensors_take_the_dense_form_or_are_refused():
    q, k = torch.empty(2, 8, 4, device="meta"), torch.empty(2, 9, 4, device="meta")
    assert ops.match(q, k).index.shape == (2, 8)
    assert ops.attend(q, k, k).shape == (2, 8, 4)
    assert ops.cycle(q, q, k, k, torch.empty(2, 8, device="meta")).consistent.shape == (2, 8)
    with pytest.raises(NotImplementedError, match="streaming looks at values"):
        ops.match(q, k, pairwise=STREAMING)


@pytest.fixture
def multiplied(monkeypatch):
    """A function that runs another and gives what it multiplies, in products of N x N x C."""
    work = []

    def counting(name, owner, operands):
        product = getattr(owner, name)

        def counted(*inputs, **more):
            a, b = operands(*inputs)
            work.append(a.shape[0] * a.shape[1] * b.shape[1])
            return product(*inputs, **more)

        monkeypatch.setattr(owner, name, counted)

    counting("mm", multiply, lambda a, b: (a, b))
    counting("mm_", multiply, lambda out, a, b: (a, b))
    counting("add_mm_", multiply, lambda total, a, b: (a, b))
    counting("_product", blocks.Blocks, lambda self, a, b, name="score": (a, b))

    def run(function: Callable[[], object], N: int, C: int) -> float:
        work.clear()
        function()
        return sum(work) / (N * N * C)

    return run


@pytest.mark.usefixtures("small_blocks")
def test_what_is_multiplied_is_what_the_table_says(multiplied):
    N, C = 256, 8
    source, target = draw(1, N, C).requires_grad_(), draw(1, N, C, seed=1).requires_grad_()
    block = 16 / N

    def count(total):
        return multiplied(lambda: torch.autograd.grad(total.sum(), (source, target), allow_unused=True), N, C)

    def forward(operation, **how):
        found = []
        work = multiplied(lambda: found.append(operation(pairwise=STREAMING, **how)), N, C)
        return found[0], work

    average, work = forward(lambda **how: ops.attend(source, source, source, cosine=True, ratio=0.5, **how))
    assert work == pytest.approx(2)
    assert count(average) == pytest.approx(3.5 + 1.5 * block)

    average, work = forward(lambda **how: ops.attend(source, target, target, **how))
    assert work == pytest.approx(2)
    assert count(average) == pytest.approx(5)

    labels = labels_of(1, N)
    cycle, work = forward(lambda **how: ops.cycle(source, source, target, target, labels, cosine=True, **how))
    starts = cycle.consistent.sum().item() / N
    targets = len(cycle.target_index[cycle.consistent].unique()) / N
    assert 0.1 < targets < starts < 0.6
    assert work == pytest.approx(1 + targets)
    assert count(cycle.log_probability) == pytest.approx(3 * (starts + (1 - starts) * targets))

    inputs = source, source.cos(), target, target.cos()
    cycle, work = forward(lambda **how: ops.cycle(*inputs, labels, **how))
    starts = cycle.consistent.sum().item() / N
    used = len(cycle.target_index.unique()) / N
    targets = len(cycle.target_index[cycle.consistent].unique()) / N
    assert work == pytest.approx(1 + used + starts)
    assert count(cycle.log_probability) == pytest.approx(3 * (starts + targets))


def test_a_row_without_a_gradient_costs_nothing(multiplied):
    q, k = draw(1, 256, 8).requires_grad_(), draw(1, 256, 8, seed=1)
    chosen = ops.match(q, k, pairwise=STREAMING).log_probability[0, [3, 200]].sum()
    assert multiplied(lambda: torch.autograd.grad(chosen, q), 256, 8) == pytest.approx(3 * 2 / 256)


MEMORY = """
import sys, torch
from plca_dist.ops import operations as ops
from plca_dist.ops.settings import Pairwise
pairwise, sizes = Pairwise(backend=sys.argv[1]), [int(n) for n in sys.argv[2:]]
torch.set_num_threads(1)
def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))
def run(N):
    x, y = torch.randn(1, N, 16).requires_grad_(), torch.randn(1, N, 16).requires_grad_()
    labels = torch.randint(0, 4, (1, N))
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    aggregated = ops.attend(y, y, y, ratio=0.5, cosine=True, pairwise=pairwise)
    total = ops.cycle(x, x, aggregated, aggregated, labels, cosine=True, pairwise=pairwise).log_probability.sum()
    p, q = x.softmax(-1), aggregated.softmax(-1)
    total = total + ops.cycle(p, p.log(), q, q.log(), labels, pairwise=pairwise).log_probability.sum()
    torch.autograd.grad(total, (x, y))
    return status("VmHWM") - before
run(256)
print(*(run(n) for n in sizes))
"""


def peaks(backend: str, *sizes: int) -> list[float]:
    """Resident memory in MB that both levels with aggregation need above their inputs, forward and backward."""
    command = [sys.executable, "-c", MEMORY, backend, *map(str, sizes)]
    return [int(kb) / 1e3 for kb in subprocess.check_output(command, text=True).split()]


def test_peak_memory_grows_as_n():
    assert peaks("dense", 2048)[0] > 2048**2 * 4 * 6 / 1e6  # the ruler can see maps
    sizes = [1024, 2048, 4096, 8192, 16384]
    streaming = peaks("streaming", *sizes)
    assert streaming[-1] < 64  # one map would be 1074
    assert math.log(streaming[-1] / streaming[1]) / math.log(sizes[-1] / sizes[1]) <= 1.1
