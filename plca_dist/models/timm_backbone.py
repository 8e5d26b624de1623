"""Networks of timm as backbones.

What a network gives is found out by trying it on tensors without storage: a forward pass costs nothing there. So any
network of timm will do whose features have the wanted stride and whose images may have any size. Its parameters keep
the names that they have in timm.

The names of options are timm's: `output_stride` has a convolutional network dilate its last stages, `dynamic_img_size`
and `strict_img_size` let a transformer interpolate its position embeddings to each image.
"""

from collections.abc import Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from plca_dist.errors import UserError, first_line
from plca_dist.models.architecture import STRIDES, Style
from plca_dist.models.storageless import without_storage
from plca_dist.models.timm_library import create, known_name, library

#: Ways to have a network take images of any size; each network knows one of them at most.
_ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
#: Height and width of the image it is tried on: not equal, and multiples of what patches and strides there are.
_TRIED = (448, 896)
#: What a network raises for an option that it does not know or cannot do, and for an image that it does not take.
_REFUSALS = (TypeError, ValueError, AssertionError, NotImplementedError, RuntimeError, IndexError)
#: The finest level that the multi-level head looks at, and how many levels.
_FINEST, _LEVELS = 4, 4


class Facts(NamedTuple):
    """What a network of timm is and gives.

    Attributes:
        options: what it is built with.
        taken: the intermediate features that it gives, by timm's index.
        norm: the network's own last normalization is applied to them.
        channels: of each of them.
        multiple: both sides of an image must be multiples of this; 1: any.
        unused: parameters that these features do not depend on.
        style: its input.
    """

    options: tuple[tuple[str, Any], ...]
    taken: tuple[int, ...]
    norm: bool
    channels: tuple[int, ...]
    multiple: int
    unused: tuple[str, ...]
    style: Style


def build_timm(backbone: str, head: str, stride: int) -> tuple[nn.Module, Facts]:
    """The network `timm/NAME`, freshly initialized by torch's global generator, and its facts.

    Its forward pass takes normalized images (B, 3, H, W) and gives a list of features (B, C_i, h_i, w_i), finest first.
    With the head "deeplab" these are the last ones, at `stride`; with "multilevel" up to four, of several depths.
    Dropout and stochastic depth are off: nothing here is random but the data.

    Raises UserError: timm is not installed, the name is unknown, or its features do not suit.
    """
    facts = timm_facts(backbone, head, stride)
    model = create(backbone, dict(facts.options))
    _prune(model, facts.taken, facts.norm)
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif type(module).__name__ == "DropPath":
            module.drop_prob = 0.0
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in facts.unused)
    # As the module's own forward, not as a wrapper's call of it: ZeRO 3 gathers parameters around a forward.
    setattr(model, "forward", _features(model, facts.taken, facts.norm))  # noqa: B010
    return model, facts


@cache
def timm_facts(backbone: str, head: str, stride: int) -> Facts:
    """The facts of `timm/NAME` under this head and stride. Raises UserError as `build_timm` does."""
    options: dict[str, Any] = {}
    with without_storage():
        if head == "deeplab":
            options, model, levels = _dilated(backbone, stride)
            wanted = [len(levels) - 1]
        else:
            options, model, levels = _tried(backbone, {})
            wanted = _spread(levels)
        strides = [levels[k][1] for k in wanted]
        if strides[-1] != stride if head == "deeplab" else strides[0] > stride:
            raise UserError(_no_such_stride(backbone, head, stride))
        if wrong := [type(m).__name__ for m in model.modules() if _is_odd_batch_norm(m)]:
            raise UserError(
                f"{backbone} normalizes by {wrong[0]}, which ranks cannot synchronize: take another network."
            )
        norm = _has_norm(model, wanted)
        taken = tuple(_prune(model, tuple(wanted), norm))
        multiple = next(
            m for m in (1, *sorted(strides)) if m == max(strides) or _suffices(m, model, taken, norm, strides)
        )
        unused = _unused(model, taken, norm)
    mean, std = ([round(255 * x, 6) for x in model.pretrained_cfg[key]] for key in ("mean", "std"))
    channels = tuple(levels[k][0] for k in wanted)
    return Facts(tuple(options.items()), taken, norm, channels, multiple, unused, timm_style(mean, std))


def timm_style(mean: Any, std: Any) -> Style:
    """The input of a network of timm: RGB, less `mean`, by `std`, in units of 0-255."""
    return Style("timm", False, False, (0, 1, 2), tuple(mean), tuple(std))


def timm_layers(module: nn.Module) -> dict[str, int]:
    """The depth of each parameter of a network that `build_timm` made, from 0 for the stem, as timm counts it.

    A last normalization has the depth of the last block.
    """
    models: Any = library().models
    matcher: Any = module.group_matcher
    depths = models.group_parameters(module, matcher(coarse=False), reverse=True)
    return {name: int(depth) for name, depth in depths.items()}


def timm_undecayed(module: nn.Module) -> frozenset[str]:
    """Parameters that timm would not decay beside those of one dimension: position embeddings, say."""
    named: Any = getattr(module, "no_weight_decay", frozenset)
    return frozenset(named())


def _features(model: Any, taken: tuple[int, ...], norm: bool) -> Any:
    return partial(
        model.forward_intermediates, indices=list(taken), norm=norm, output_fmt="NCHW", intermediates_only=True
    )


def _prune(model: Any, taken: tuple[int, ...], norm: bool) -> list[int]:
    return model.prune_intermediate_layers(list(taken), prune_norm=not norm, prune_head=True)


def _tried(backbone: str, more: Mapping[str, Any]) -> tuple[dict[str, Any], Any, list[tuple[int, int]]]:
    """The options under which it takes images of any size, it itself, and (channels, stride) of all its features."""
    for any_size in _ANY_SIZE:
        options = {**any_size, **more}
        try:
            model = create(backbone, options)
        except TypeError:
            if any_size:
                continue
            raise
        try:
            features = model.forward_intermediates(_image(), output_fmt="NCHW", intermediates_only=True)
        except _REFUSALS as error:
            raise UserError(
                f"{backbone} does not take images of {_TRIED[0]} x {_TRIED[1]} ({first_line(error)}), and here they may"
                " have any size: take another network."
            ) from None
        return options, model, [(f.shape[1], -(-_TRIED[0] // f.shape[2])) for f in features]
    raise AssertionError("the last of _ANY_SIZE asks for nothing")


def _dilated(backbone: str, stride: int) -> tuple[dict[str, Any], Any, list[tuple[int, int]]]:
    """`_tried`, dilated to the stride where it can be."""
    known_name(backbone)
    try:
        return _tried(backbone, {"output_stride": stride})
    except _REFUSALS:
        return _tried(backbone, {})


def _image(more: int = 0) -> Tensor:
    return torch.empty(2, 3, _TRIED[0] + more, _TRIED[1] + more)


def _spread(levels: list[tuple[int, int]]) -> list[int]:
    """Which levels the multi-level head takes: of each stride the last, or, with one stride, four evenly spaced."""
    last = {stride: k for k, (_, stride) in enumerate(levels) if stride >= _FINEST}
    if len(last) > 1:
        return sorted(last.values())[-_LEVELS:]
    count = min(_LEVELS, len(levels))
    return [len(levels) * (k + 1) // count - 1 for k in range(count)]


def _no_such_stride(backbone: str, head: str, stride: int) -> str:
    can = sorted({levels[-1][1] for s in (stride, 8, 16, 32) for _, _, levels in [_dilated(backbone, s)]})
    _, _, levels = _tried(backbone, {})
    finest = levels[_spread(levels)[0]][1]
    message = f"model.stride = {stride}: {backbone} cannot give features at it"
    if head == "multilevel":
        return f"{message}; its finest have stride {finest}: set model.stride={finest}."
    ways = [f"model.stride={s}" for s in can if s in STRIDES]
    if finest < levels[-1][1]:
        ways.append(f"model.head=multilevel, which takes any stride from {finest}")
    return f"{message}; set {', or '.join(ways)}."


def _is_odd_batch_norm(module: nn.Module) -> bool:
    kind = nn.modules.batchnorm._BatchNorm
    return isinstance(module, kind) and not (isinstance(module, nn.BatchNorm2d) and module.affine)


def _has_norm(model: Any, wanted: list[int]) -> bool:
    """Whether it can apply its own last normalization to these features."""
    try:
        _features(model, tuple(wanted), True)(_image())
    except _REFUSALS:
        return False
    return True


def _suffices(multiple: int, model: Any, taken: tuple[int, ...], norm: bool, strides: list[int]) -> bool:
    """Whether the grids cover an image whose sides are such multiples and no larger ones: rounded up, not down."""
    try:
        levels = _features(model, taken, norm)(_image(multiple))
    except _REFUSALS:
        return False
    return all(
        tuple(level.shape[2:]) == tuple(-(-(side + multiple) // stride) for side in _TRIED)
        for level, stride in zip(levels, strides, strict=True)
    )


def _unused(model: Any, taken: tuple[int, ...], norm: bool) -> tuple[str, ...]:
    """Parameters without a gradient. An optimizer would keep a state for some of them and not for others."""
    with torch.enable_grad():
        torch.stack([level.sum() for level in _features(model, taken, norm)(_image())]).sum().backward()
    return tuple(name for name, parameter in model.named_parameters() if parameter.grad is None)
