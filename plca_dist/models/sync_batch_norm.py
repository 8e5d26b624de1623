"""Batch norm whose statistics are taken over the images of all ranks, without a wait for the GPU.

torch.nn.SyncBatchNorm does the same, and looks up which ranks had images at all: three waits a layer for the GPU, 624
in a pass of ResNet-101 over two domains. Here every rank has a batch of the same shape.

Shapes: B images, C channels, H x W positions, W ranks.
"""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function


class SyncBatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over all ranks of the default group while it trains; else, and on one rank, the same as that.

    What its children do, an activation say, is done afterwards: timm's `BatchNormAct2d` has such.
    """

    def forward(self, input: Tensor) -> Tensor:
        output = self._normalized(input)
        for child in self.children():
            output = child(output)
        return output

    def _normalized(self, input: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        output: Tensor = _Normalize.apply(
            input, self.weight, self.bias, self.running_mean, self.running_var, self.eps, self.momentum
        )
        return output


def synchronized(module: nn.Module) -> nn.Module:
    """The same module, with `SyncBatchNorm` in place of every `nn.BatchNorm2d`. Parameters and buffers stay theirs."""
    if isinstance(module, nn.BatchNorm2d):
        known = type(module) is nn.BatchNorm2d or type(module).__name__ == "BatchNormAct2d"
        assert known, f"{type(module).__name__} may do more than batch norm and then its children"
        assert module.affine, "batch norm without a scale"
        assert module.track_running_stats, "batch norm without running statistics"
        made = SyncBatchNorm(module.num_features, module.eps, module.momentum)
        made.weight, made.bias, made.training = module.weight, module.bias, module.training
        for name, buffer in module.named_buffers(recurse=False):
            setattr(made, name, buffer)
        for name, child in module.named_children():
            made.add_module(name, child)
        return made
    for name, child in module.named_children():
        setattr(module, name, synchronized(child))
    return module


class _Normalize(Function):
    """y = (x − μ)/√(v + ε) · w + b, with μ and the biased v over the images of all ranks."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BCHW: Tensor,
        weight_C: Tensor,
        bias_C: Tensor,
        running_mean_C: Tensor,
        running_var_C: Tensor,
        eps: float,
        momentum: float,
    ) -> Tensor:
        if not x_BCHW.is_contiguous(memory_format=torch.channels_last):
            x_BCHW = x_BCHW.contiguous()
        kernels: Any = _Cuda if x_BCHW.is_cuda else _Plain
        of_ranks = _gathered(torch.stack(kernels.stats(x_BCHW, eps)))
        counts_W = x_BCHW.new_full((len(of_ranks),), x_BCHW.numel() // x_BCHW.shape[1], dtype=torch.float32)
        mean_C, inverse_C = kernels.gather(
            x_BCHW, *of_ranks.unbind(1), running_mean_C, running_var_C, momentum, eps, counts_W
        )
        ctx.save_for_backward(x_BCHW, weight_C, mean_C, inverse_C, counts_W)
        return cast(Tensor, kernels.normalize(x_BCHW, weight_C, bias_C, mean_C, inverse_C, eps))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (dy_BCHW,) = gradients
        x_BCHW, weight_C, mean_C, inverse_C, counts_W = ctx.saved_tensors
        layout = torch.channels_last if x_BCHW.is_contiguous(memory_format=torch.channels_last) else None
        dy_BCHW = dy_BCHW.contiguous(memory_format=layout or torch.contiguous_format)
        kernels: Any = _Cuda if x_BCHW.is_cuda else _Plain
        *sums, dweight_C, dbias_C = kernels.reduce(dy_BCHW, x_BCHW, mean_C, inverse_C, weight_C)
        of_all_2C = torch.stack(sums)
        dist.all_reduce(of_all_2C)
        dx_BCHW = kernels.gradient(dy_BCHW, x_BCHW, mean_C, inverse_C, weight_C, *of_all_2C, counts_W.int())
        return dx_BCHW, dweight_C, dbias_C, None, None, None, None


def _gathered(of_rank: Tensor) -> Tensor:
    """(W, *) of every rank's tensor, by rank."""
    world_size = dist.get_world_size()
    if of_rank.is_cuda:
        of_ranks = of_rank.new_empty((world_size, *of_rank.shape))
        dist.all_gather_into_tensor(of_ranks, of_rank)
        return of_ranks
    parts = [torch.empty_like(of_rank) for _ in range(world_size)]
    dist.all_gather(parts, of_rank)  # gloo has no other form
    return torch.stack(parts)


class _Cuda:
    """The kernels that torch's own synchronized batch norm is made of."""

    stats = staticmethod(torch.batch_norm_stats)
    gather = staticmethod(torch.batch_norm_gather_stats_with_counts)
    normalize = staticmethod(torch.batch_norm_elemt)
    gradient = staticmethod(torch.batch_norm_backward_elemt)

    @staticmethod
    def reduce(dy: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        return torch.batch_norm_backward_reduce(dy, x, mean, inverse, weight, True, True, True)


class _Plain:
    """The same of `_Cuda`'s functions in plain torch, on any device; statistics in float32."""

    @staticmethod
    def stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Mean and 1/√(v + ε), (C,), of this rank's images."""
        variance, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
        return mean, (variance + eps).rsqrt()

    @staticmethod
    def gather(
        x: Tensor,
        mean_WC: Tensor,
        inverse_WC: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
        counts_W: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Those over all ranks. Moves the running statistics, which have the unbiased variance."""
        share_W1, total = (counts_W / counts_W.sum())[:, None], counts_W.sum()
        mean = (share_W1 * mean_WC).sum(0)
        variance = (share_W1 * (inverse_WC**-2 - eps + (mean_WC - mean) ** 2)).sum(0)
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((variance * total / (total - 1)).to(running_var.dtype), momentum)
        return mean, (variance + eps).rsqrt()

    @staticmethod
    def normalize(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor, eps: float) -> Tensor:
        scale = weight * inverse
        return (x * _wide(scale) + _wide(bias - mean * scale)).to(x.dtype)

    @staticmethod
    def reduce(dy: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        """Σ dy and Σ dy (x − μ), and the gradients of weight and bias, each (C,), over this rank's images."""
        sum_dy = dy.float().sum((0, 2, 3))
        sum_dy_centred = (dy * (x - _wide(mean))).sum((0, 2, 3))
        return sum_dy, sum_dy_centred, (sum_dy_centred * inverse).to(weight.dtype), sum_dy.to(weight.dtype)

    @staticmethod
    def gradient(
        dy: Tensor,
        x: Tensor,
        mean: Tensor,
        inverse: Tensor,
        weight: Tensor,
        sum_dy: Tensor,
        sum_dy_centred: Tensor,
        counts_W: Tensor,
    ) -> Tensor:
        """dx = w/√(v + ε) · (dy − Σ dy/n − (x − μ) Σ dy (x − μ)/(n (v + ε))), the sums over all ranks."""
        total = counts_W.sum()
        off = dy - _wide(sum_dy / total) - (x - _wide(mean)) * _wide(sum_dy_centred * inverse**2 / total)
        return (off * _wide(weight * inverse)).to(dy.dtype)


def _wide(x_C: Tensor) -> Tensor:
    return x_C[:, None, None]
