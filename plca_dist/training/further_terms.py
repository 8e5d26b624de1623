"""The terms beside Eq. 14 that a recipe switches on, and the state that they keep beside the network."""

from typing import NamedTuple

import torch

from plca_dist.config import Config
from plca_dist.method.terms import Companion, Term
from plca_dist.models.deeplab import Network


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
    return FurtherTerms(terms, companions)
