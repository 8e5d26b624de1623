"""Parts of a backbone that do not train: named modules, and the statistics of batch norm."""

from collections.abc import Sequence

from torch import nn

from plca_dist.errors import UserError, nearest, some
from plca_dist.models.deeplab import Network

#: In the place of names: the whole backbone.
ALL = "all"


def freeze(network: Network, names: Sequence[str], *, freeze_bn: bool = False) -> None:
    """Have parts of the backbone stay as they are, also under `network.train()`.

    A frozen module keeps its parameters, and batch norm in it uses its running statistics and keeps them. It is called
    once, after `synchronize_batch_norm`, which puts other modules into the network.

    Args:
        names: of modules or parameters of the backbone, as `named_modules` and `named_parameters` have them, or "all".
        freeze_bn: all batch norm uses and keeps its running statistics; its scale and shift still train.

    Raises UserError for names that the backbone does not have, and for `freeze_bn` without batch norm.
    """
    modules = {name: module for name, module in network.backbone.named_modules() if name}
    parameters = dict(network.backbone.named_parameters())
    still: list[nn.Module] = []
    for name in names:
        if name == ALL or name in modules:
            module = network.backbone if name == ALL else modules[name]
            still.append(module)
            module.requires_grad_(False)
        elif name in parameters:
            parameters[name].requires_grad_(False)
        else:
            top = [known for known, _ in network.backbone.named_children()]
            raise UserError(
                f"model.frozen: {network.backbone_name} has no part {name!r}; it has {some(top, 8)}, their own parts "
                f"({top[0]}.…), and {ALL}.{nearest(name, [*modules, *parameters])}"
            )
    if freeze_bn:
        norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if not norms:
            raise UserError(f"model.freeze_bn: {network.backbone_name} has no batch norm; leave it out.")
        still += norms
    network.still = tuple(still)
    network.train(network.training)
