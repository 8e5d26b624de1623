"""The terms beside Eq. 14 that a recipe switches on, and the state that they keep beside the network."""

from functools import partial
from typing import NamedTuple

import torch

from plca_dist.config import Config
from plca_dist.method.entropy import entropy_loss
from plca_dist.method.max_square import max_square_loss
from plca_dist.method.on_target import OnTarget
from plca_dist.method.terms import Companion, Term
from plca_dist.models.deeplab import Network
from plca_dist.training.adversary import Adversary
from plca_dist.training.build import empty_network
from plca_dist.training.optimizer import poly
from plca_dist.training.self_training import SelfTraining


class FurtherTerms(NamedTuple):
    """Attributes:
    terms: those that are switched on, in the order of their weights in the settings.
    companions: what they keep beside the network, by name.
    """

    terms: list[Term]
    companions: dict[str, Companion]


def further_terms(config: Config, network: Network, device: torch.device) -> FurtherTerms:
    """Build them. `network` has the weights that the run starts from, on `device`, and is whole. Same on every rank."""
    terms: list[Term] = []
    companions: dict[str, Companion] = {}
    objective, classes = config.objective, len(config.label_set)
    if objective.entropy:
        terms.append(OnTarget("entropy", partial(entropy_loss, penalty=objective.entropy_penalty)))
    if objective.max_square:
        terms.append(OnTarget("max_square", partial(max_square_loss, image_weights=objective.image_weights)))
    if objective.adversarial:
        adversary = Adversary(config.adversary, classes, config.seed, partial(poly, config), device)
        terms.append(adversary)
        companions[adversary.name] = adversary
    if objective.pseudo_labels:
        training = SelfTraining(
            config.self_training,
            *config.self_training.rounds_of(config.schedule.steps),
            lambda: empty_network(config).to(device),
            classes,
            device,
            autocast=config.precision == "bfloat16",
        )
        terms.append(training)
        companions[training.name] = training
    return FurtherTerms(terms, companions)
