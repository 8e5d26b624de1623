"""Trained networks in the forms that others read: safetensors, ONNX, the authors' files; and the authors' files in."""

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import torch

from plca_dist.data.datasets.toytown import scene
from plca_dist.data.labels import LABEL_SETS, LabelSet
from plca_dist.errors import RunFailed, UserError
from plca_dist.inference.load import TrainedNetwork, load_trained
from plca_dist.inference.parts import InferenceJob, job_from
from plca_dist.method.settings import InferenceSettings
from plca_dist.models.authors import AUTHORS_BACKBONE, AUTHORS_STYLE, authors_classes, load_authors, to_authors
from plca_dist.models.deeplab import build_network
from plca_dist.models.onnx_file import require_onnx, run_onnx, to_onnx
from plca_dist.models.weights import to_bytes
from plca_dist.storage import Store, file_at
from plca_dist.training.evaluation import probabilities

#: Probabilities of the written graph may differ from ours by rounding, which σ of the contrast normalization amplifies.
_TOLERANCE = 1e-3
_ANY_SIZE = ((97, 129), (64, 160))


def import_authors(file: str, out: str, endpoint: str | None = None) -> tuple[str, LabelSet]:
    """Turn a file of the paper's authors into a weight file of ours, which evaluation, prediction and training take.

    Returns:
        Where it was written, and the label set by which its classes are now ordered.

    Raises:
        UserError: no such file, one that is not of the authors' form, an `out` that exists or is no .safetensors.
    """
    if not out.endswith(".safetensors"):
        raise UserError(f"{out}: a weight file of this project is called .safetensors; give --out such a name.")
    target, name = _new_file(out, endpoint)
    source, theirs = file_at(file, endpoint)
    if not source.exists(theirs):
        raise UserError(f"{file} does not exist; give the path or URI of a file that the authors published.")
    data, origin = source.read(theirs), f"{source.uri}/{theirs}"
    classes = set(authors_classes(data, origin=origin))
    labels = next(known for known in LABEL_SETS.values() if set(known.classes) == classes)
    network = build_network(AUTHORS_BACKBONE, len(labels), style=AUTHORS_STYLE)
    load_authors(network, data, labels.classes, origin=origin)
    target.write(name, to_bytes(network, labels.classes))
    return f"{target.uri}/{name}", labels


def export_authors(place: str, out: str, endpoint: str | None = None) -> str:
    """Write trained weights, from where `load_trained` finds them, as a file that the authors' code loads; its URI.

    Raises UserError for a network of which they have no file, and an `out` that exists.
    """
    target, name = _new_file(out, endpoint)
    trained = load_trained(place, endpoint)
    target.write(name, to_authors(trained.network, trained.labels.classes, origin=place))
    return f"{target.uri}/{name}"


def export_network(
    place: str,
    out: str,
    *,
    size: Sequence[int] | None = None,
    aggregation: float | None = None,
    endpoint: str | None = None,
) -> str:
    """Write trained weights as a `.safetensors` or an `.onnx` file, by the name of `out`.

    An ONNX file is run on drawn scenes before it is written, and held to what `predict` gives for them.

    Args:
        place: of the weights, as `load_trained` takes it.
        size: height and width of the ONNX file's images; default: the recipe's, where that has none any.
        aggregation: ratio λ inside the ONNX file; default: the recipe's, of a weight file 0.5.

    Returns:
        What was written where, in one line.

    Raises:
        UserError: another ending, an `out` that exists, settings that the form does not have, a missing package.
    """
    kind = PurePosixPath(out).suffix
    if kind not in (".safetensors", ".onnx"):
        raise UserError(f"{out}: networks are exported as .safetensors or .onnx; give --out a name that ends so.")
    target, name = _new_file(out, endpoint)
    if kind == ".onnx":
        require_onnx()
        trained = load_trained(place, endpoint)
        job, _ = job_from(place, aggregation, size, endpoint, trained=trained)
        data, off = _checked_onnx(trained, job)
        taken = f"{job.size[0]} x {job.size[1]}" if job.size else "any size"
        said = f"images of {taken}, λ = {job.aggregation:g}; from torch it differs by at most {off:.1e}"
    else:
        if size or aggregation is not None:
            raise UserError(f"{out}: weights have no size and no λ; these are settings of an .onnx file.")
        trained = load_trained(place, endpoint)
        data = to_bytes(trained.network, trained.labels.classes)
        said = f"{trained.network.backbone_name} in style {trained.network.style.name}"
    target.write(name, data)
    return f"{target.uri}/{name}: {len(trained.labels)} classes, {said}"


def _new_file(place: str, endpoint: str | None) -> tuple[Store, str]:
    store, name = file_at(place, endpoint)
    if store.exists(name):
        raise UserError(f"{place} exists already; give --out another name, or remove it first.")
    return store, name


def _checked_onnx(trained: TrainedNetwork, job: InferenceJob) -> tuple[bytes, float]:
    """The ONNX file, and how far its probabilities of a few scenes were from ours."""
    inference = InferenceSettings(trained.inference.kl_aggregation_contrast)
    data = to_onnx(
        trained.network,
        trained.labels.classes,
        size=job.size,
        ratio=job.aggregation,
        kl_aggregation_contrast=inference.kl_aggregation_contrast,
    )
    worst = 0.0
    for number, (height, width) in enumerate([job.size] if job.size else _ANY_SIZE):
        drawn_HW3, _ = scene(number, seed=0, domain="target", height=height, width=width)
        image_3HW = torch.from_numpy(np.ascontiguousarray(drawn_HW3.transpose(2, 0, 1)))
        ours_KHW = probabilities(trained.network, image_3HW, size=None, ratio=job.aggregation, inference=inference)
        theirs_1KHW, _ = run_onnx(data, image_3HW[None])
        off = (theirs_1KHW[0] - ours_KHW).abs().max().item()
        if not off <= _TOLERANCE:  # nor NaN
            raise RunFailed(f"{job.place}: the ONNX graph's probabilities are {off:.1e} off torch's; not written.")
        worst = max(worst, off)
    return data, worst
