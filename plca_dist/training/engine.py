"""The recipe's settings as a DeepSpeed engine: one module, one optimizer, one schedule."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

from plca_dist.config import Config
from plca_dist.data.stream import Batch
from plca_dist.method.fourier import in_style_of
from plca_dist.method.objective import LossTerms, Objective
from plca_dist.method.output import NetworkOutput
from plca_dist.method.terms import Companion, Scene
from plca_dist.models.deeplab import Network, synchronize_batch_norm
from plca_dist.models.frozen import freeze
from plca_dist.models.statistics import kept_statistics
from plca_dist.training.build import build_objective
from plca_dist.training.checkpoint import internals
from plca_dist.training.companions import Companions
from plca_dist.training.draws import Draws
from plca_dist.training.further_terms import further_terms, laid_out
from plca_dist.training.optimizer import build_optimizer, parameter_groups, poly_lr

#: 25 MB of float32, as DistributedDataParallel has them.
_BUCKET_ELEMENTS = 25 * (1 << 20) // 4


class TrainingModule(nn.Module):
    """Network and objective in one module, which DeepSpeed wraps: a batch goes in, loss terms come out.

    The target passes first, then the source, as in the authors' code. Two passes normalize each domain by its own batch
    statistics; the running statistics see both.

    `trained` names the parameters that train, in the order of the optimizer's state. It is found out before the engine
    is built: at ZeRO 3 a parameter has no shape afterwards.

    `fourier` is the β of the swap that gives the source the target's low frequencies before it passes; 0: none.

    `companions` are no part of the module: neither the optimizer nor DeepSpeed's checkpoints know of them.
    """

    def __init__(
        self,
        network: Network,
        objective: Objective,
        trained: Sequence[str] = (),
        companions: Mapping[str, Companion] | None = None,
        *,
        fourier: float = 0.0,
    ) -> None:
        super().__init__()
        self.trained = tuple(trained)
        self.network = network
        self.objective = objective
        self.companions = Companions(companions)
        self.fourier = fourier

    def forward(self, batch: Batch) -> LossTerms:
        if self.fourier:
            assert batch.target_image is not None
            styled = in_style_of(batch.source_image, batch.target_image, self.fourier)
            batch = batch._replace(source_image=styled)
        target = None
        if batch.target_image is not None and self.objective.settings.needs_target_output:
            target = self._passed(batch.target_image)
        source = self._passed(batch.source_image)
        labels_BHW = batch.source_label.long()
        return self.objective(source, labels_BHW, target, self._scene(batch, source, labels_BHW, target))

    def _passed(self, image_B3HW: Tensor, *, keep_statistics: bool = False) -> NetworkOutput:
        with kept_statistics(self.network) if keep_statistics else nullcontext():
            return self.network(laid_out(image_B3HW))

    def _scene(
        self, batch: Batch, source: NetworkOutput, labels_BHW: Tensor, target: NetworkOutput | None
    ) -> Scene | None:
        if not self.objective.terms:
            return None
        assert batch.keys is not None
        draws = Draws(batch.keys, batch.source_image.device)
        return Scene(source, labels_BHW, target, batch.source_image, batch.target_image, self._passed, draws)


def set_lr(engine: Any, config: Config, step: int) -> float:
    """Set the rate of every parameter group for `step`. It follows from the step, so no schedule state is saved."""
    lr = poly_lr(config, step)
    for group in engine.optimizer.param_groups:
        group["lr"] = lr * group["lr_multiplier"]
    return lr


def deepspeed_config(config: Config, world_size: int, parameters: int, *, on_gpu: bool = False) -> dict[str, Any]:
    """DeepSpeed's configuration.

    Args:
        parameters: elements of all the module's parameters.
        on_gpu: gradients are reduced on a stream of their own.

    Raises:
        UserError: the global batch does not divide by world size and micro-batch.
    """
    micro, accumulation = config.accumulation(world_size)
    settings = {
        "zero_allow_untested_optimizer": True,  # DeepSpeed refuses torch's SGD under ZeRO without this
        "timers": {"throughput": {"enabled": False}},  # it waits for the GPU twice in every pass
        "zero_force_ds_cpu_optimizer": False,  # DeepSpeed refuses torch's SGD with offload without this
        **config.deepspeed,
    }
    if config.zero_stage:
        # DeepSpeed's default is made for language models: buffers of 2 GB, allocated in every backward pass. Small
        # ones are on their way while the rest of the backward pass is computed.
        buckets: dict[str, Any] = {"reduce_bucket_size": min(_BUCKET_ELEMENTS, parameters)}
        if on_gpu:
            buckets["overlap_comm"] = True
        settings["zero_optimization"] = {**buckets, **config.deepspeed["zero_optimization"]}
    return {
        **settings,
        "train_batch_size": config.batch.pairs,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.optimizer.gradient_clipping,  # stated, because DeepSpeed's default is 1.0
        # DeepSpeed's bf16 section would cast the model and break batch norm; autocast keeps float32 weights.
        # Gradients are reduced in float32 at every ZeRO stage: by default those of convolutions would not be at 1 to 3.
        "torch_autocast": {
            "enabled": config.precision == "bfloat16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
        "steps_per_print": 2**31,
    }


def build_engine(config: Config, network: Network, device: torch.device) -> Any:
    """Wrap `network` with its objective and optimizer in a DeepSpeed engine. torch.distributed must be initialized."""
    if device.type == "cpu":
        internals.use_no_compiled_operators()
    elif dist.get_world_size() > 1:
        network = synchronize_batch_norm(network)
    freeze(network, config.model.frozen, freeze_bn=config.model.freeze_bn)
    deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo")
    if device.type == "cuda":
        network = network.to(memory_format=torch.channels_last)
    groups = parameter_groups(network, config)
    trained = [f"network.{name}" for group in groups for name in group.names]
    further = further_terms(config, network.to(device))
    module = TrainingModule(
        network, build_objective(config, further.terms), trained, further.companions, fourier=config.source.fourier
    )
    optimizer = build_optimizer(network, groups, config)
    parameters = sum(p.numel() for p in module.parameters())
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=optimizer,
        config=deepspeed_config(config, dist.get_world_size(), parameters, on_gpu=device.type == "cuda"),
    )
    return engine


def after_step(engine: Any, done: int) -> None:
    """Tell the companions of the run's `done`-th step, with the network's weights whole at any ZeRO stage.

    A collective call. Buffers have been averaged before. Without companions nothing is done.
    """
    companions, network = engine.module.companions, engine.module.network
    if companions:
        parameters = list(network.parameters())
        with deepspeed.zero.GatheredParameters(parameters, enabled=internals.zero_stage(engine) == 3):
            companions.after_step(network, done)


def average_buffers(module: nn.Module) -> None:
    """Replace the running statistics of batch norm by their mean over ranks. One small all-reduce.

    Without synchronized batch norm the statistics of the ranks drift apart, and a checkpoint holds those of rank 0
    alone. Those of frozen layers do not drift; the mean of three equal numbers might.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    buffers = [b for m in norms for b in m.buffers(recurse=False) if b.is_floating_point()]
    if dist.get_world_size() == 1 or not buffers or buffers[0].is_cuda:  # on CUDA batch norm is synchronized itself
        return
    flat = torch.cat([b.reshape(-1) for b in buffers])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for buffer, mean in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(mean.view_as(buffer))


def finite_weights(engine: Any) -> Tensor:
    """Whether all weights and buffers that this rank holds are finite: a bool scalar on the device."""
    held = (*internals.held_parameters(engine), *engine.module.buffers(), *engine.module.companions.tensors())
    tensors = [t for t in held if t.is_floating_point() and t.numel()]
    largest = nn.utils.get_total_norm(tensors, torch.inf)  # a few launches for all of them
    return torch.isfinite(largest).to(internals.device(engine))


def full_state(engine: Any) -> dict[str, Tensor]:
    """The network's unpartitioned weights and buffers, at any ZeRO stage, on every rank's CPU. A collective call."""
    network = engine.module.network
    parameters = list(network.parameters())
    with deepspeed.zero.GatheredParameters(parameters, enabled=internals.zero_stage(engine) == 3):
        return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
