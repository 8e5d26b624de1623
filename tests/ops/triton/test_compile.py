"""Every kernel, as its function launches it, through Triton's compiler for an H100: needs no GPU.

The interpreter takes what the compiler refuses (types, shapes of products), and knows neither registers nor shared
memory. Run as a script in a process of its own, where the interpreter is off, this file compiles instead of launching
and prints what each kernel takes, one JSON object a line.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

#: Shared memory of a block on an H100 or H200, in bytes.
SHARED = 227 * 1024
#: Bytes a thread may spill from registers: `key_gradient` in tf32 with 128 channels does spill, by 248.
SPILLED = 256
R, M = 8464, 32768


def epilogue_calls() -> Iterator[str]:
    """Calls the functions of the epilogue, with everything that changes a kernel; yields what each call is."""
    from plca_dist.ops.certified import Best
    from plca_dist.ops.epilogue import Pull, Softmax
    from plca_dist.ops.triton import epilogue

    def side(rows: int) -> tuple[Softmax, torch.Tensor]:
        return Softmax(*torch.zeros(3, rows)), torch.zeros(rows)

    def pull(rows: int) -> Pull:
        return Pull(side(rows)[0], torch.zeros(rows, dtype=torch.int64), torch.zeros(rows))

    for rows, columns in ((5, 1), (7, 1001), (64, R)):
        block, other, third = torch.zeros(3, rows, columns)
        epilogue.column_best_(block, rows, torch.zeros(columns), torch.zeros(columns, dtype=torch.int64))
        for dtype in (torch.float32, torch.bfloat16):
            for view in (block, block.mT):
                rows_of, columns_of = (torch.zeros(n, 40, dtype=dtype) for n in view.shape)
                scale, found = (
                    torch.zeros(len(columns_of), dtype=torch.float64),
                    Best.of_none(len(rows_of), block.device),
                )
                epilogue.settle(view, torch.zeros(len(rows_of)), rows_of, columns_of, scale, rows, found)
            for contrast in (True, False):
                epilogue.softmax_(block, contrast, None)
                epilogue.softmax_(block, contrast, dtype)
            for of_rows, of_columns in ((True, False), (False, True), (True, True)):
                pulls = pull(rows) if of_rows else None, pull(columns) if of_columns else None
                epilogue.match_gradient_(block, *pulls, dtype)
            epilogue.attend_gradient_(block, other, *side(rows), dtype)
            epilogue.attend_gradient_both_(block, other, third, side(rows), side(columns), dtype)
        yield f"epilogue {rows} x {columns}"
    epilogue.softmax_(torch.zeros(2, 4 * M), True, torch.float32)
    yield f"epilogue 2 x {4 * M}"


def fused_calls() -> Iterator[str]:
    """Calls every fused function, for every set of tiles and precision; yields what each call is."""
    from plca_dist.ops.epilogue import Pull, Softmax
    from plca_dist.ops.triton import fused

    softmax, vector = Softmax(*torch.zeros(3, R)), torch.zeros(R)
    for channels, dtype in ((19, torch.float32), (64, torch.bfloat16), (128, torch.float32)):
        query, key = torch.zeros(channels, R, dtype=dtype).mT, torch.zeros(channels, M, dtype=dtype).mT
        for products in ("float32", "tf32", "bf16"):
            if channels != 64:
                fused.best(query, key, products=products)
                fused.match(query, key, products=products)
                fused.match_gradient(query, key, Pull(softmax, vector.long(), vector), products=products)
            fused.attend(query, key, key, channels != 64, products=products)
            fused.attend_gradient(query, key, key, query, vector, softmax, products=products)
            yield f"fused {products} {channels}"


def main() -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.runtime.jit import JITFunction

    class Driver:
        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 90, 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int) -> int:
            return 0

    launch, seen = JITFunction.run, []

    def compile_only(self: JITFunction, *args: object, **kwargs: object) -> object:
        seen.append((self.__name__, launch(self, *args, **{**kwargs, "warmup": True})))
        return None

    triton.runtime.driver.set_active(Driver())
    JITFunction.run = compile_only
    for calls in (epilogue_calls(), fused_calls()):
        for what in calls:
            for name, kernel in seen:
                Path("kernel.cubin").write_bytes(kernel.asm["cubin"])
                tool = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", "kernel.cubin"]
                usage = subprocess.run(tool, capture_output=True, text=True, check=True).stdout
                registers, spilled = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())
                taken = {"registers": registers, "spilled": spilled, "shared": kernel.metadata.shared}
                taken |= {"warps": kernel.metadata.num_warps, "tensor_cores": "wgmma" in kernel.asm["ptx"]}
                print(json.dumps({"call": what, "kernel": name} | taken), flush=True)
            seen.clear()


@pytest.mark.ci
def test_every_kernel_compiles_and_fits(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path / "cache")
    done = subprocess.run([sys.executable, __file__], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "FP_FUSION" not in done.stderr, done.stderr  # a default that differs between versions was relied on
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    assert {k["kernel"] for k in kernels} == {
        "_softmax", "_column_best", "_settle", "_match_gradient", "_attend_gradient", "_attend_gradient_both",
        "forward", "query_gradient", "key_gradient",
    }  # fmt: skip
    for kernel in kernels:
        assert kernel["shared"] <= SHARED, kernel
        assert kernel["spilled"] <= SPILLED, kernel
        assert kernel["registers"] * 32 * kernel["warps"] <= 65536, kernel
        assert kernel["tensor_cores"] == (kernel["call"].startswith(("fused tf32", "fused bf16"))), kernel


if __name__ == "__main__":
    main()
