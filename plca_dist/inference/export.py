"""Trained networks written as safetensors, ONNX or the authors' files, and the authors' files read."""

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import torch

from plca_dist.data.datasets.toytown import scene
from plca_dist.data.label_record import own_record
from plca_dist.data.labels import LABEL_SETS, LabelSet
from plca_dist.errors import RunFailed, UserError
from plca_dist.inference.distribute import InferenceJob, job_from
from plca_dist.method.settings import InferenceSettings
from plca_dist.models.architecture import TIMM
from plca_dist.models.authors import AUTHORS_BACKBONE, AUTHORS_STYLE, authors_classes, load_authors, to_authors
from plca_dist.models.deeplab import build_network
from plca_dist.models.onnx_file import require_onnx, run_onnx, to_onnx
from plca_dist.models.weights import to_bytes
from plca_dist.storage import Location, Store, file_at
from plca_dist.training.evaluation import probabilities
from plca_dist.training.trained import TrainedNetwork, load_trained

#: The graph's probabilities may differ from torch's by rounding, which σ of the contrast normalization amplifies.
_TOLERANCE = 1e-3
#: Heights and widths on which a graph for any size is tried.
_ANY_SIZE = ((97, 129), (64, 160))


def import_authors(file: Location, out: Location) -> tuple[str, LabelSet]:
    """Turn a file of the paper's authors into a .safetensors file, which evaluation, prediction and training take.

    Returns:
        The URI of the weight file, and the label set whose order its classes now have.

    Raises:
        UserError: no such file, one that is not of the authors' form, an `out` that exists or is no .safetensors.
    """
    if not out.uri.endswith(".safetensors"):
        raise UserError(f"{out.uri}: a weight file of this project is called .safetensors; give --out such a name.")
    target, name = _new_file(out)
    source, authors_file = file_at(file)
    if not source.exists(authors_file):
        raise UserError(f"{file.uri} does not exist; give the path or URI of a file that the authors published.")
    data, origin = source.read(authors_file), f"{source.uri}/{authors_file}"
    classes = set(authors_classes(data, origin=origin))
    labels = next(known for known in LABEL_SETS.values() if set(known.classes) == classes)
    network = build_network(AUTHORS_BACKBONE, len(labels), style=AUTHORS_STYLE)
    load_authors(network, data, labels.classes, origin=origin)
    target.write(name, to_bytes(network, labels.classes))
    return f"{target.uri}/{name}", labels


def export_network(
    weights: Location,
    out: Location,
    *,
    size: Sequence[int] | None = None,
    aggregation: float | None = None,
) -> str:
    """Write trained weights in the form that the ending of `out` names.

    .safetensors   the form of this project
    .onnx          a graph; it is run on drawn scenes before it is written, and its results must be those of `predict`
    .pth           the form that the authors' code loads, which holds networks like theirs only

    Args:
        weights: as `load_trained` takes them.
        size: height and width of the ONNX file's images; default: the recipe's, and any size where that has none.
        aggregation: ratio λ inside the ONNX file; default: the recipe's, of a weight file 0.5.

    Returns:
        The URI of the file and its content, in one line for a person.

    Raises:
        UserError: another ending, an `out` that exists, a setting that the form does not have, a missing package, a
            network that the authors' form cannot hold.
        RunFailed: the ONNX graph gives other probabilities than torch.
    """
    form = PurePosixPath(out.uri).suffix
    if form not in (".safetensors", ".onnx", ".pth"):
        raise UserError(
            f"{out.uri}: networks are exported as .safetensors or .onnx, or as .pth for the authors' code; "
            "give --out a name that ends so."
        )
    if form != ".onnx" and (size or aggregation is not None):
        raise UserError(f"{out.uri}: weights have no size and no λ; these are settings of an .onnx file.")
    target, name = _new_file(out)
    if form == ".onnx":
        require_onnx()
    trained = load_trained(weights)
    content = trained.network.backbone_name
    if not content.startswith(TIMM):
        content += f" in style {trained.network.style.name}"
    if form == ".onnx":
        job, _ = job_from(weights, aggregation, size, trained=trained)
        data, difference = _checked_onnx(trained, job)
        size_text = f"{job.size[0]} x {job.size[1]}" if job.size else "any size"
        content = f"images of {size_text}, λ = {job.aggregation:g}; from torch it differs by at most {difference:.1e}"
    elif form == ".pth":
        data = to_authors(trained.network, trained.labels.classes, origin=weights.uri)
    else:
        data = to_bytes(trained.network, trained.labels.classes, own_record(trained.labels))
    target.write(name, data)
    return f"{target.uri}/{name}: {len(trained.labels)} classes, {content}"


def _new_file(location: Location) -> tuple[Store, str]:
    store, name = file_at(location)
    if store.exists(name):
        raise UserError(f"{location.uri} exists already; give --out another name, or remove it first.")
    return store, name


def _checked_onnx(trained: TrainedNetwork, job: InferenceJob) -> tuple[bytes, float]:
    """The ONNX file, and the largest difference of its probabilities from torch's for a few drawn scenes."""
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
        torch_KHW = probabilities(trained.network, image_3HW, size=None, ratio=job.aggregation, inference=inference)
        onnx_1KHW, _ = run_onnx(data, image_3HW[None])
        difference = (onnx_1KHW[0] - torch_KHW).abs().max().item()
        if not difference <= _TOLERANCE:  # a NaN is refused too
            raise RunFailed(
                f"{job.weights.uri}: the ONNX graph's probabilities are {difference:.1e} off torch's; not written."
            )
        worst = max(worst, difference)
    return data, worst
