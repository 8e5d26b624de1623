"""From a recipe to its network and its objective. Drivers use it too: nothing here imports DeepSpeed or the loop."""

from plca_dist.config import Config
from plca_dist.method.objective import Objective
from plca_dist.models.deeplab import Network, build_network


def build_objective(config: Config) -> Objective:
    return Objective(config.objective)


def empty_network(config: Config) -> Network:
    """The recipe's network, with random weights."""
    settings = config.model
    return build_network(settings.backbone, len(config.label_set), style=settings.style, rates=settings.rates)
