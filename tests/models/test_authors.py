"""The authors' files against their network, built independently: the same logits, the way back, refusals."""

import io

import pytest
import torch

from plca_dist.data.labels import LABEL_SETS
from plca_dist.errors import UserError
from plca_dist.models.authors import authors_classes, fill_as_authors, load_authors, to_authors
from plca_dist.models.deeplab import Network
from plca_dist.models.weights import load_pretrained
from tests.authors import MEAN_BGR, ORDER, AuthorsNetwork
from tests.models.files import network_of, same, saved, snapshot

CITYSCAPES = LABEL_SETS["cityscapes"].classes
SYNTHIA = LABEL_SETS["synthia"].classes
CAMVID = LABEL_SETS["camvid"].classes
HEAD = "classifier.0.convs.{}.0.weight"


@pytest.fixture(scope="module")
def theirs() -> AuthorsNetwork:
    return AuthorsNetwork()


@pytest.fixture(scope="module")
def ours(theirs: AuthorsNetwork) -> Network:
    network = network_of("resnet101", CITYSCAPES, style="caffe")
    load_pretrained(network, theirs.file(), CITYSCAPES)  # as `model.weights`
    return network.eval()


@pytest.fixture(scope="module")
def ours16() -> Network:
    return network_of("resnet101", SYNTHIA, style="caffe")


def test_order_is_the_papers_classes_with_synthias_first() -> None:
    assert authors_classes(saved({"weights": {HEAD.format(2): torch.zeros(19, 1, 3, 3)}})) == ORDER
    assert authors_classes(saved({"weights": {HEAD.format(0): torch.zeros(16, 1, 3, 3)}})) == ORDER[:16]
    assert set(ORDER) == set(CITYSCAPES)
    assert set(ORDER[:16]) == set(SYNTHIA)


@pytest.mark.parametrize(
    ("dtype", "off", "size", "grid"),
    [(torch.float32, 1e-5, (97, 129), (13, 17)), (torch.float64, 1e-13, (41, 64), (6, 9))],
)
def test_the_same_logits(
    theirs: AuthorsNetwork, ours: Network, dtype: torch.dtype, off: float, size: tuple, grid: tuple
) -> None:
    rgb_B3HW = torch.randint(0, 256, (1, 3, *size), generator=torch.Generator().manual_seed(1)).to(dtype)
    bgr_B3HW = rgb_B3HW[:, [2, 1, 0]] - torch.tensor(MEAN_BGR, dtype=dtype).view(3, 1, 1)
    try:
        with torch.no_grad():
            expected_BKhw = theirs.to(dtype)(bgr_B3HW)[:, [ORDER.index(name) for name in CITYSCAPES]]
            found_BKhw = ours.to(dtype)(rgb_B3HW).logits
    finally:
        theirs.float(), ours.float()
    assert found_BKhw.shape == (1, 19, *grid)
    assert (found_BKhw - expected_BKhw).abs().max() <= off * expected_BKhw.abs().max()
    assert expected_BKhw.std(1).min() > 0.01 * expected_BKhw.abs().max(), "classes must differ for their order to show"


def test_the_way_back_is_the_file_that_came_in(theirs: AuthorsNetwork, ours: Network) -> None:
    written = torch.load(io.BytesIO(to_authors(ours, CITYSCAPES)), weights_only=True)
    assert list(written) == ["weights"]
    assert list(written["weights"]) == list(theirs.state_dict())
    assert len(written["weights"]) == 628
    assert same(written["weights"], theirs.state_dict())


def test_sixteen_classes_both_ways(theirs: AuthorsNetwork, ours16: Network) -> None:
    state = theirs.state_dict() | {HEAD.format(i): theirs.state_dict()[HEAD.format(i)][:16] for i in range(4)}
    load_authors(ours16, saved({"weights": state}), SYNTHIA)
    for i, name in enumerate(SYNTHIA):
        assert torch.equal(ours16.classifier.convs[2].weight[i], state[HEAD.format(2)][ORDER.index(name)]), name
    written = torch.load(io.BytesIO(to_authors(ours16, SYNTHIA)), weights_only=True)
    assert same(written["weights"], state)


def test_files_that_do_not_fit_change_nothing(theirs: AuthorsNetwork, ours: Network, ours16: Network) -> None:
    state, before = theirs.state_dict(), snapshot(ours16)
    with pytest.raises(
        UserError,
        match=r"has 19 classes, the network 16; only here: none; only in the file: terrain, truck, train: use",
    ):
        load_authors(ours16, saved({"weights": state}), SYNTHIA)
    assert same(ours16.state_dict(), before)

    before = snapshot(ours)

    def refused(payload: object, reason: str) -> None:
        with pytest.raises(UserError, match=reason):
            fill_as_authors(ours, payload, CITYSCAPES, "f.pth")

    last = HEAD.format(3)
    refused(
        {"weights": state | {last: state[last][:16]}},
        r"1 of another shape: classifier\.0\.convs\.3\.0\.weight 16x2048x3x3 where 19x2048x3x3",
    )
    headless = {key: value for key, value in state.items() if key.startswith("backbone.")}
    refused({"weights": headless}, r"4 missing: classifier\.0\.convs\.0\.0\.weight, .*: check that the file is one the")
    wrapped = {f"module.{key}": value for key, value in headless.items()}
    refused({"weights": wrapped}, r"628 missing: backbone\.conv1\.weight, .*624 unexpected: module\.backbone\.conv1")
    # Our own names would say that the rows are in our order.
    refused({"weights": ours.state_dict()}, r"4 missing: classifier\.0.*4 unexpected: classifier\.convs\.0\.weight")
    refused(headless, "has no entry 'weights'")
    refused({"weights": [1]}, "holds no state dict")
    with pytest.raises(UserError, match="not a file of tensors"):
        load_authors(ours, b"nothing", CITYSCAPES)
    assert same(ours.state_dict(), before)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ({HEAD.format(0): torch.zeros(13, 2048, 3, 3)}, "13 classes where the authors' models have 19, or 16"),
        ({"backbone.conv1.weight": torch.zeros(64, 3, 7, 7)}, r"classifier\.0\.convs\.0\.0\.weight, …\) of 0 classes"),
        ({HEAD.format(0): torch.zeros(19)}, "of 0 classes"),
    ],
)
def test_heads_of_unknown_order_are_refused(weights: dict, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        authors_classes(saved({"weights": weights}))


def test_their_files_hold_their_network_only() -> None:
    network = network_of("tiny", CITYSCAPES, rates=(1, 2))
    unlike = (
        r"backbone 'resnet101', not 'tiny'; style 'caffe', not 'torchvision'; rates \(6, 12, 18, 24\), not \(1, 2\)"
    )
    with pytest.raises(UserError, match=f"need {unlike}: build the network so"):
        load_authors(network, saved({"weights": {}}), CITYSCAPES)
    with pytest.raises(UserError, match=f"runs/x cannot be an authors' file, which holds {unlike}: train with these"):
        to_authors(network, CITYSCAPES, origin="runs/x")
    with torch.device("meta"):
        network = network_of("resnet101", CAMVID, style="caffe")
    with pytest.raises(UserError, match="the 19 classes of Cityscapes or the 16 of SYNTHIA, not bicyclist: export it"):
        to_authors(network, CAMVID)
