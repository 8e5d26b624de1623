"""ONNX files run by onnxruntime against the network in torch: any batch and size, every setting, extreme values."""

import json

import onnx
import pytest
import torch

from plca_dist.errors import RunFailed
from plca_dist.method.settings import InferenceSettings
from plca_dist.models.deeplab import Network
from plca_dist.models.onnx_file import Inference, run_onnx, to_onnx
from plca_dist.training.evaluation import probabilities
from tests.models.files import TOYTOWN, network_of


def images(batch: int, *size: int) -> torch.Tensor:
    """Coloured blocks under noise: positions that differ, and positions that do not."""
    torch.manual_seed(2)
    blocks = torch.randint(0, 256, (batch, 3, 3, 4)).float()
    blocks = torch.nn.functional.interpolate(blocks, size)
    return (blocks + 20 * torch.randn_like(blocks)).clamp(0, 255).to(torch.uint8)


def sure(network: Network, spread: float) -> Network:
    """Logits of that standard deviation: predictions away from the uniform one."""
    with torch.no_grad():
        now = network.eval()(images(1, 64, 64)).logits.std()
        for weight in network.classifier.parameters():
            weight.mul_(spread / now)
    return network


@pytest.mark.parametrize(
    ("backbone", "style", "size", "ratio", "contrast"),
    [
        ("tiny", "torchvision", None, 0.5, False),
        ("tiny", "torchvision", (40, 72), 0.3, True),
        ("resnet18", "caffe", (97, 129), 0.0, False),  # BGR, the mean, and a pool that rounds up
    ],
)
def test_onnxruntime_says_what_torch_says(
    backbone: str, style: str, size: tuple | None, ratio: float, contrast: bool
) -> None:
    network = sure(network_of(backbone, style=style, rates=(1, 2)), 3)
    data = to_onnx(network, TOYTOWN, size=size, ratio=ratio, kl_aggregation_contrast=contrast)
    settings = {"ratio": ratio, "inference": InferenceSettings(contrast)}
    for edges in [size] if size else [(97, 129), (64, 160), (80, 80), (9, 200)]:
        batch_B3HW = images(3, *edges)
        probability_BKHW, ids_BHW = run_onnx(data, batch_B3HW)
        ours = [probabilities(network, image_3HW, size=None, **settings) for image_3HW in batch_B3HW]
        # Rounding of float32, which differs between CPUs: up to 1.01e-5 was seen.
        torch.testing.assert_close(probability_BKHW, torch.stack(ours), rtol=0, atol=3e-5)
        assert torch.equal(ids_BHW.long(), probability_BKHW.argmax(1))
        plain = probabilities(network, batch_B3HW[0], size=None, ratio=0)
        assert ((plain - ours[0]).abs().max() > 1e-3) == (ratio > 0), "aggregation that shows"


@pytest.mark.parametrize(
    ("backbone", "head", "stride", "size"),
    [
        (
            "timm/test_vit",
            "deeplab",
            16,
            None,
        ),  # position embeddings of any size, images of parts of patches
        ("timm/test_convnext", "multilevel", 8, (64, 96)),
    ],
)
def test_networks_of_timm_too(backbone: str, head: str, stride: int, size: tuple[int, int] | None) -> None:
    network = sure(network_of(backbone, head=head, stride=stride), 3)
    data = to_onnx(network, TOYTOWN, size=size, ratio=0.5)
    for edges in [size] if size else [(97, 129), (64, 160), (80, 80)]:
        batch_B3HW = images(2, *edges)
        probability_BKHW, _ = run_onnx(data, batch_B3HW)
        ours = [probabilities(network, image_3HW, size=None, ratio=0.5) for image_3HW in batch_B3HW]
        torch.testing.assert_close(probability_BKHW, torch.stack(ours), rtol=0, atol=3e-5)
    metadata = {entry.key: json.loads(entry.value) for entry in onnx.load_from_string(data).metadata_props}
    assert (metadata["backbone"], metadata.get("stride", 8), metadata["mean"]) == (backbone, stride, [127.5] * 3)


@pytest.fixture(scope="module")
def extreme() -> tuple[Network, bytes]:
    """A network that is certain of everything, and its ONNX file."""
    network = sure(network_of("tiny", rates=(1, 2)), 1e3)
    return network, to_onnx(network, TOYTOWN, size=(32, 48), ratio=0.25)


def test_probabilities_of_zero_keep_their_epsilon(extreme: tuple[Network, bytes]) -> None:
    """A graph without the ε of log(P + ε) has 0 · −∞ here."""
    network, data = extreme
    batch_B3HW = images(1, 32, 48)
    assert (network(batch_B3HW).logits.softmax(1) == 0).any()
    ours_KHW = probabilities(network, batch_B3HW[0], size=None, ratio=0.25)
    torch.testing.assert_close(run_onnx(data, batch_B3HW)[0][0], ours_KHW, rtol=0, atol=1e-3)


def test_the_file_describes_itself_and_not_the_machine(extreme: tuple[Network, bytes]) -> None:
    network, data = extreme
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    assert {p.key: json.loads(p.value) for p in model.metadata_props} == {
        "backbone": "tiny", "style": "torchvision", "rates": [1, 2], "classes": list(TOYTOWN), "size": [32, 48],
        "aggregation": 0.25, "kl_aggregation_contrast": False,
    }  # fmt: skip
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "image": ["batch", 3, 32, 48], "probabilities": ["batch", 9, 32, 48], "train_ids": ["batch", 32, 48],
    }  # fmt: skip
    del model.graph.initializer[:]
    assert ".py" not in str(model)
    # Every convolution once: the logits of what is not aggregated are not computed beside those of what is.
    convolutions = [m for m in Inference(network, 0.25, False).modules() if isinstance(m, torch.nn.Conv2d)]
    assert sum(node.op_type == "Conv" for node in model.graph.node) == len(convolutions)


@pytest.mark.parametrize(
    ("size", "told"), [(None, "any size .*; give one with"), ((32, 64), "this size .*; try another with")]
)
def test_a_network_that_torch_cannot_write_is_one_line(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int] | None, told: str
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise torch.onnx.OnnxExporterError("no operator\nand a page more")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(RunFailed, match=rf"^tiny cannot be written as ONNX for images of {told} --size\.$"):
        to_onnx(network_of("tiny", rates=(1,)), TOYTOWN, size=size, ratio=0)
