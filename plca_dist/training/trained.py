"""Networks with weights: of a run, of one of its checkpoints, or of a weight file; and what a run begins with."""

import hashlib
import re
from dataclasses import dataclass

from plca_dist.config import Config
from plca_dist.data.label_record import of_record
from plca_dist.data.labels import LABEL_SETS, LabelSet
from plca_dist.errors import UserError
from plca_dist.method.settings import InferenceSettings
from plca_dist.models.deeplab import Network
from plca_dist.models.state import load_strict, state_dict_of
from plca_dist.models.weights import (
    describe,
    label_record,
    load_into,
    load_pretrained,
    load_timm,
    load_weights,
    to_bytes,
)
from plca_dist.run_files import CHECKPOINTS, RECIPE, TEACHER_WEIGHTS, WEIGHTS
from plca_dist.sections import HUB
from plca_dist.storage import Location, Store, absolute, file_at, probe
from plca_dist.training.attempts import recipe_of
from plca_dist.training.build import empty_network
from plca_dist.training.checkpoint.full_state import weights_of
from plca_dist.training.further_terms import TEACHER
from plca_dist.training.result import has_result


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with its weights, on the CPU.

    Attributes:
        store: the run's directory, or that of the weight file.
        config: the run's recipe; None for a weight file on its own.
        checkpoint: its name, where the weights are a checkpoint's; "teacher" where they are the averaged teacher's.
    """

    network: Network
    labels: LabelSet
    store: Store
    config: Config | None
    checkpoint: str | None = None

    @property
    def inference(self) -> InferenceSettings:
        """How the network was trained to aggregate, as `evaluate` and `probabilities` take it."""
        return self.config.objective.inference if self.config else InferenceSettings()


def load_trained(location: Location) -> TrainedNetwork:
    """Load a run's directory, `RUN/checkpoints/step-…`, or a `.safetensors` file.

    `RUN/teacher.safetensors` is read with the run's recipe, as the run's own weights are.

    Raises:
        UserError: nothing there, a run without a result yet, a checkpoint that was not committed.
    """
    place = absolute(location.uri).rstrip("/") or "/"
    if place.endswith(".safetensors"):
        store, file = file_at(location.with_uri(place))
        if not store.exists(file):
            raise UserError(f"{place} does not exist; give a run's directory, or the weight file it left.")
        if file == TEACHER_WEIGHTS and store.exists(RECIPE):
            return _from_file(store, file, recipe_of(store), TEACHER)
        return _from_file(store, file, None)
    if place.endswith((".pth", ".pt")):
        raise UserError(
            f"{place}: give a run's directory or a .safetensors file; `plca import` makes one of a file of the paper's"
            " authors."
        )
    within = re.fullmatch(rf"(.+)/{CHECKPOINTS}/([^/]+)", place)
    store = probe(location.with_uri(within[1] if within else place))
    if not store.exists(RECIPE):
        raise UserError(f"{store.uri} is no run: it holds no {RECIPE}; give a run's directory or a .safetensors file.")
    config = recipe_of(store)
    if within:
        network = empty_network(config)
        weights = state_dict_of(weights_of(store, within[2]), place)
        load_strict(network, weights, f"{place} does not fit its run's {RECIPE}", "restore it from a copy")
        return TrainedNetwork(network, config.label_set, store, config, within[2])
    if not has_result(store):
        raise UserError(
            f"{store.uri} has no {WEIGHTS} yet: the run has not finished; "
            f"continue it with `plca train`, or name one of its {CHECKPOINTS}/."
        )
    return _from_file(store, WEIGHTS, config)


def fresh_network(config: Config) -> Network:
    """The recipe's network at step 0: random, or with the weights that `model.weights` names.

    These are a file of any kind that `load_pretrained` knows, what `load_trained` takes, or timm's hub.

    Raises UserError where there is nothing, or where it does not fit.
    """
    network, _ = beginning(config)
    return network


def beginning(config: Config) -> tuple[Network, str | None]:
    """`fresh_network`, and a hash of the file's bytes; None where there is no file. Raises as `fresh_network` does."""
    network = empty_network(config)
    if config.model.weights is None:
        return network, None
    if config.model.weights == HUB:
        load_timm(network, None)
        return network, None
    location = config.location(config.model.weights)
    origin, classes = location.uri.rstrip("/"), config.label_set.classes
    store, file = file_at(location.with_uri(origin))
    if store.exists(file):
        data = store.read(file)
        load_pretrained(network, data, classes, origin=origin)
    elif any(store.list(file)):
        trained = load_trained(location)
        data = to_bytes(trained.network, trained.labels.classes)
        load_into(network, data, classes, origin=origin)
    else:
        raise UserError(
            f"model.weights: {origin} does not exist; name a weight file (nothing is downloaded), a run's directory or "
            "one of its checkpoints, or --set model.weights=null to start from random weights."
        )
    return network, hashlib.sha256(data).hexdigest()[:16]


def _from_file(store: Store, file: str, config: Config | None, checkpoint: str | None = None) -> TrainedNetwork:
    origin = f"{store.uri}/{file}"
    data = store.read(file)
    classes = describe(data, origin=origin).classes
    own = label_record(data, origin=origin)
    known = [config.label_set] if config else [of_record(own, origin)] if own else LABEL_SETS.values()
    for labels in known:
        if labels.classes == classes:
            return TrainedNetwork(load_weights(data, origin=origin), labels, store, config, checkpoint)
    raise UserError(f"{origin} knows classes of no label set here: {', '.join(classes)}.")
