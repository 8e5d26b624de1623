"""A network as an ONNX file. It holds normalization, aggregation and upsampling, so it runs without this package.

B: batch; H, W: the image; h, w: the grid, N = h·w positions; K: classes.
"""

import json
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plca_dist.errors import RunFailed, UserError, first_line
from plca_dist.method.aggregation import aggregated_prediction
from plca_dist.method.settings import InferenceSettings
from plca_dist.models.deeplab import Network
from plca_dist.models.description import described
from plca_dist.models.quiet import quietly
from plca_dist.ops.settings import Pairwise

IMAGE, PROBABILITIES, TRAIN_IDS = "image", "probabilities", "train_ids"
_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_OPSET = 18


class Inference(nn.Module):
    """The paper's inference: images (B, 3, H, W), RGB in 0-255, uint8 -> probabilities (B, K, H, W), their argmax.

    Features aggregated -> classifier -> softmax -> probabilities aggregated -> bilinear upsampling. With `ratio` 0
    it is the plain network. Aggregation is the dense form, because ONNX has no operators for the streaming one. It
    holds about two N x N maps of float32 an image.
    """

    def __init__(self, network: Network, ratio: float, kl_aggregation_contrast: bool) -> None:
        super().__init__()
        self.network = network
        self.ratio = ratio
        self.settings = InferenceSettings(kl_aggregation_contrast, Pairwise(backend="dense"))

    def forward(self, image_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        grid_BKhw = aggregated_prediction(
            self.network(image_B3HW).features,
            self.network.classify,
            self.ratio,
            self.settings,
        )
        probability_BKHW = F.interpolate(grid_BKhw, image_B3HW.shape[-2:], mode="bilinear", align_corners=False)
        return probability_BKHW, probability_BKHW.argmax(1).to(torch.uint8)


def to_onnx(
    network: Network,
    classes: Sequence[str],
    *,
    size: tuple[int, int] | None,
    ratio: float,
    kl_aggregation_contrast: bool = False,
) -> bytes:
    """The network as an ONNX file with the input IMAGE and the outputs PROBABILITIES and TRAIN_IDS; see `Inference`.

    The file's metadata are the network's description, as in weight files, and the settings here, each as JSON.

    Args:
        size: height and width of the images; None: any. The batch is free.
        ratio: aggregation ratio λ in [0, 1).
        kl_aggregation_contrast: as the network was trained with.

    Raises:
        UserError: a package that this needs is not installed.
        RunFailed: torch cannot write the network; only of one of timm's can that be.
    """
    require_onnx()
    # No edge of 1 and no two equal edges: torch.export takes a 1 for a constant, and equal numbers for one number.
    example_B3HW = torch.zeros(2, 3, *(size or (80, 144)), dtype=torch.uint8)
    free = {0: "batch"} if size else {0: "batch", 2: "height", 3: "width"}
    with quietly():
        try:
            program = torch.onnx.export(
                Inference(network, ratio, kl_aggregation_contrast).eval(),
                (example_B3HW,),
                dynamo=True,
                verbose=False,
                optimize=False,  # it takes the ε of log(P + ε) for a zero and drops it: NaN where a probability is 0
                opset_version=_OPSET,
                input_names=[IMAGE],
                output_names=[PROBABILITIES, TRAIN_IDS],
                dynamic_shapes=({axis: torch.export.Dim(name) for axis, name in free.items()},),
            )
        except torch.onnx.OnnxExporterError as error:
            which = "of this size" if size else "of any size"
            raise RunFailed(
                f"{network.backbone_name} cannot be written as ONNX for images {which} ({first_line(error)}); "
                f"{'try another' if size else 'give one'} with --size."
            ) from error
        assert program is not None
        optimizer: Any = import_module("onnxscript.optimizer")
        optimizer.fold_constants(program.model)
        optimizer.remove_unused_nodes(program.model)
    settings = {"size": size, "aggregation": ratio, "kl_aggregation_contrast": kl_aggregation_contrast}
    return _finished(program.model_proto, described(network, classes).written() | settings)


def run_onnx(data: bytes, image_B3HW: Tensor) -> tuple[Tensor, Tensor]:
    """Run the file with onnxruntime on the CPU, on uint8 images: probabilities (B, K, H, W), train ids (B, H, W)."""
    require_onnx()
    runtime: Any = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run([PROBABILITIES, TRAIN_IDS], {IMAGE: image_B3HW.numpy()})
    return torch.from_numpy(outputs[0]), torch.from_numpy(outputs[1])


def require_onnx() -> None:
    """Raises UserError where a package that ONNX files need is missing."""
    for name in _NEEDED:
        try:
            import_module(name)
        except ImportError:
            raise UserError(
                f"ONNX files need {', '.join(_NEEDED)}, and {name} is not installed: pip install 'plca-dist[export]'."
            ) from None


def _finished(model: Any, settings: dict[str, Any]) -> bytes:
    # The exporter notes on every node which line of which file of this machine it came from.
    graph = model.graph
    for part in (graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        del part.metadata_props[:]
    for key, value in settings.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    graph.input[0].doc_string = "RGB, 0-255, uint8"
    return model.SerializeToString()
