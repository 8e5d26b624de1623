"""The terms beside Eq. 14 that a recipe switches on, and the state that they keep beside the network."""

import copy
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from plca_dist.config import Config
from plca_dist.data.things import things_of
from plca_dist.method.class_mix import ClassMix
from plca_dist.method.entropy import entropy_loss
from plca_dist.method.feature_distance import FeatureDistance
from plca_dist.method.masked_consistency import MaskedConsistency
from plca_dist.method.max_square import max_square_loss
from plca_dist.method.on_target import OnTarget
from plca_dist.method.strong_augmentation import strongly_augmented
from plca_dist.method.teacher import PseudoLabels, Teacher, pseudo_labels
from plca_dist.method.terms import Companion, Term
from plca_dist.models.deeplab import Network
from plca_dist.training.adversary import Adversary
from plca_dist.training.build import empty_network
from plca_dist.training.optimizer import poly
from plca_dist.training.self_training import SelfTraining

#: The teacher's name among the companions.
TEACHER = "teacher"


class FurtherTerms(NamedTuple):
    """What a recipe has beside Eq. 14.

    Attributes:
        terms: those that are switched on, in the order of their weights in the settings.
        companions: what they keep beside the network, by name.
    """

    terms: list[Term]
    companions: dict[str, Companion]


def further_terms(config: Config, network: Network) -> FurtherTerms:
    """Build them; alike on all ranks.

    `network` is whole, on its device, and has the weights that the run starts from.
    """
    objective, options = config.objective, config.teacher
    terms: list[Term] = []
    companions: dict[str, Companion] = {}
    if objective.needs_teacher:
        teacher = Teacher(network, options.decay)
        companions[TEACHER] = teacher
        labelling = partial(_labelled, config, teacher)
        augmented = partial(strongly_augmented, jitter=options.jitter, blur=options.blur)
        if objective.class_mix:
            terms.append(ClassMix(labelling, augmented))
        if objective.masked_consistency:
            terms.append(
                MaskedConsistency(
                    labelling,
                    augmented,
                    block=config.masking.block,
                    ratio=config.masking.ratio,
                    colour=_zero_colour(network),
                    keep_statistics=objective.needs_target_output or objective.class_mix > 0,
                )
            )
    if objective.feature_distance:
        things = things_of(config.label_set, config.feature_distance.classes)
        terms.append(FeatureDistance(_Fixed(network), things, config.feature_distance.share))
    _add_rivals(config, next(network.parameters()).device, terms, companions)
    return FurtherTerms(terms, companions)


def _add_rivals(config: Config, device: torch.device, terms: list[Term], companions: dict[str, Companion]) -> None:
    """Add the terms of the methods that the paper compares itself with."""
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


def _labelled(config: Config, teacher: Teacher, image_B3HW: Tensor) -> PseudoLabels:
    options = config.teacher
    size = (image_B3HW.shape[2], image_B3HW.shape[3])
    logits_BKhw = teacher.logits(laid_out(image_B3HW))
    return pseudo_labels(logits_BKhw, size, options.threshold, options.ignore_top, options.ignore_bottom)


class _Fixed:
    """The features of the network as it is now. They are those of `model.weights` at every start of the run."""

    def __init__(self, network: Network) -> None:
        self._network = copy.deepcopy(network).requires_grad_(False).eval()

    @torch.no_grad()
    def __call__(self, image_B3HW: Tensor) -> Tensor:
        return self._network(laid_out(image_B3HW)).features


def _zero_colour(network: Network) -> list[float]:
    """RGB in 0-255 that the network's normalization makes 0."""
    colour = [0.0] * 3
    for channel, mean in zip(network.style.channels, network.style.mean, strict=True):
        colour[channel] = mean
    return colour


def laid_out(image_B3HW: Tensor) -> Tensor:
    """Channels last on a GPU: its convolutions want them so, and so do the products of the association."""
    return image_B3HW.contiguous(memory_format=torch.channels_last) if image_B3HW.is_cuda else image_B3HW
