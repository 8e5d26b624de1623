"""From a recipe to its network and its objective. Drivers use it too: nothing here imports DeepSpeed or the loop."""

from plca_dist.config import Config
from plca_dist.data.labels import label_set
from plca_dist.method.objective import Objective
from plca_dist.models.deeplab import Network, build_network
from plca_dist.models.weights import load_pretrained
from plca_dist.storage import file_at


def build_objective(config: Config) -> Objective:
    return Objective(config.objective)


def empty_network(config: Config) -> Network:
    """The recipe's network, with random weights."""
    settings = config.model
    return build_network(settings.backbone, len(label_set(config.labels)), style=settings.style, rates=settings.rates)


def fresh_network(config: Config) -> Network:
    """The recipe's network at step 0: random, or with the weights it names."""
    network = empty_network(config)
    if weights := config.model.weights:
        store, file = file_at(config.location(weights))
        load_pretrained(network, store.read(file), label_set(config.labels).classes, origin=weights)
    return network
