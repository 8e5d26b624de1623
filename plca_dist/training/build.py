"""From a recipe to its network and its objective. Drivers use it too: nothing here imports DeepSpeed or the loop."""

from collections.abc import Sequence

from plca_dist.config import Config
from plca_dist.data.things import things_of
from plca_dist.errors import UserError
from plca_dist.method.objective import Objective
from plca_dist.method.terms import Term
from plca_dist.models.deeplab import Network, build_network
from plca_dist.models.frozen import freeze
from plca_dist.models.storageless import without_storage
from plca_dist.training.optimizer import parameter_groups


def build_objective(config: Config, terms: Sequence[Term] = ()) -> Objective:
    """The recipe's objective; `terms` are those of `further_terms`."""
    return Objective(config.objective, terms=terms)


def empty_network(config: Config) -> Network:
    """The recipe's network, with random weights."""
    settings = config.model
    return build_network(
        settings.backbone,
        len(config.label_set),
        style=settings.style,
        rates=settings.rates,
        head=settings.head,
        stride=settings.stride,
    )


def check_network(config: Config) -> None:
    """Raises UserError for a network that cannot be built or trained so, and for images that do not suit it.

    Nothing is computed.
    """
    with without_storage():
        network = empty_network(config)
    freeze(network, config.model.frozen, freeze_bn=config.model.freeze_bn)
    parameter_groups(network, config)
    if config.objective.feature_distance:
        things_of(config.label_set, config.feature_distance.classes)  # for its refusals
    multiple = network.multiple
    sizes = {
        "source.crop": config.source.crop,
        "target.crop": config.target.crop,
        "evaluation.size": config.evaluation.size,
    }
    for key, size in sizes.items():
        if size and (size[0] % multiple or size[1] % multiple):
            near = [max(round(side / multiple), 1) * multiple for side in size]
            raise UserError(
                f"{key} = {list(size)}: {config.model.backbone} divides an image into pieces of {multiple} x {multiple}"
                f" pixels, so both sides must be multiples of {multiple}; set it to {near}."
            )
