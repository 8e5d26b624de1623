"""EfficientNet's tensors under the names of the PyTorch port that packages and many files use.

They are `_conv_stem`, `_bn0`, `_blocks.K.…`, `_conv_head`, `_bn1`, `_fc`, with K counting the blocks through. timm
calls the same blocks `blocks.STAGE.BLOCK`.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor

_WHOLE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
#: A block of the first stage does not expand: timm counts its layers from the depthwise one.
_BLOCK_WITHOUT_EXPANSION = _BLOCK | {"_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def as_timm_names_them(state: Mapping[str, Tensor], wanted: Iterable[str]) -> Mapping[str, Tensor]:
    """`state` under timm's names, where it is under that port's; any other state as it is.

    Args:
        wanted: timm's names of all tensors of the network, in its order.

    A name without a counterpart is kept, so that whoever compares the names finds it.
    """
    if "_conv_stem.weight" not in state:
        return state
    blocks = list(dict.fromkeys(".".join(name.split(".")[:3]) for name in wanted if name.startswith("blocks.")))
    return {_name(key, blocks, state): value for key, value in state.items()}


def _name(key: str, blocks: list[str], state: Mapping[str, Tensor]) -> str:
    first, *rest = key.split(".")
    if first != "_blocks":
        return ".".join([_WHOLE.get(first, first), *rest])
    number, layer, *rest = rest
    if not number.isdigit() or int(number) >= len(blocks):
        return key
    expands = f"_blocks.{number}._expand_conv.weight" in state
    names = _BLOCK if expands else _BLOCK_WITHOUT_EXPANSION
    return ".".join([blocks[int(number)], names.get(layer, layer), *rest])
