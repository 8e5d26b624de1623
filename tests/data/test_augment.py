import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize

from plca_dist.data.augment import augment, resize_for_test, resize_label
from plca_dist.data.order import sample_rng


def marked(height: int, width: int, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A label of constant blocks, each with a class of its own, and an image that shows the class in every channel."""
    rows, columns = -(-height // block), -(-width // block)
    classes = torch.arange(rows * columns, dtype=torch.int64).reshape(rows, columns) * 37 % 251
    label = classes.repeat_interleave(block, 0).repeat_interleave(block, 1)[:height, :width].to(torch.uint8)
    return torch.stack([label, 255 - label, label // 2]), label


def inside_blocks(label: torch.Tensor) -> torch.Tensor:
    """Where the 5 x 5 pixels around have one and the same label, so that resizing mixes no neighbours in."""
    patches = label.float()[None, None].unfold(2, 5, 1).unfold(3, 5, 1)[0, 0].flatten(2)
    inside = torch.zeros_like(label, dtype=torch.bool)
    inside[2:-2, 2:-2] = (patches == patches[..., :1]).all(-1)
    return inside


@pytest.mark.parametrize("edge", [24, 48, 96, 144])  # halved, kept, doubled, tripled
@pytest.mark.parametrize("seed", range(8))
def test_image_and_label_stay_together(edge: int, seed: int) -> None:
    image, label = marked(48, 96, 16)
    out, out_label = augment(
        image, label, sample_rng(seed, "s", 0, 0), shorter_edge=(edge, edge), crop=(22, 40), flip=True
    )
    assert out.shape == (3, 22, 40)
    assert out_label is not None
    assert out_label.shape == (22, 40)
    inside = inside_blocks(out_label)
    assert inside.sum() > 40
    for channel, expected in zip(out, (out_label, 255 - out_label, out_label // 2), strict=True):
        assert torch.equal(channel[inside], expected[inside])


def test_labels_are_looked_up_at_pixel_centres() -> None:
    label = torch.randint(0, 19, (48, 96), dtype=torch.uint8)
    image = torch.zeros(3, 48, 96, dtype=torch.uint8)
    _, out = augment(image, label, sample_rng(0, "s", 0, 0), shorter_edge=(16, 16), crop=(16, 32), flip=False)
    assert out is not None
    assert torch.equal(out, label[1::3, 1::3])


@pytest.mark.parametrize("batch", [(), (1,), (2,)])
@pytest.mark.parametrize("size", [(48, 96), (30, 61), (71, 130)])
def test_resizing_is_torchvisions(size: tuple[int, int], batch: tuple[int, ...]) -> None:
    """Of images in either order of memory, which stays as it is."""
    image = torch.randint(0, 256, (*batch, 48, 96, 3), dtype=torch.uint8).movedim(-1, -3)
    label = torch.randint(0, 19, (48, 96), dtype=torch.uint8)
    for pixels in (image, image.contiguous()):
        ours, theirs = resize_for_test(pixels, size), resize(pixels, list(size), antialias=True)
        assert torch.equal(ours, theirs)
        assert ours.stride() == theirs.stride()
    nearest = resize(label[None], list(size), interpolation=InterpolationMode.NEAREST_EXACT)[0]
    assert torch.equal(resize_label(label, size), nearest)


@pytest.mark.parametrize("seed", range(6))
def test_of_a_label_only_the_crop_is_resized_and_it_is_that_of_the_whole(seed: int) -> None:
    image, label = torch.zeros(3, 40, 60, dtype=torch.uint8), torch.randint(0, 250, (40, 60), dtype=torch.uint8)
    how = {"shorter_edge": (30 + seed, 50), "flip": True}
    _, part = augment(image, label, sample_rng(seed, "s", 0, 0), crop=(28, 33), **how)  # type: ignore[arg-type]
    assert part is not None
    edge = 30 + seed + int(sample_rng(seed, "s", 0, 0).random() * (50 - 30 - seed + 1))
    whole = resize_label(label, (edge, round(60 * (edge / 40))))
    crops = [whole[t : t + 28, left : left + 33] for t in range(edge - 27) for left in range(whole.shape[1] - 32)]
    assert sum(torch.equal(part, crop) or torch.equal(part, crop.flip(-1)) for crop in crops) == 1


def test_without_resizing_the_crop_is_exact() -> None:
    image = torch.randint(0, 256, (3, 30, 50), dtype=torch.uint8)
    label = image[1].clone()
    for seed in range(30):
        out, out_label = augment(image, label, sample_rng(seed, "s", 0, 0), shorter_edge=None, crop=(20, 20), flip=True)
        assert torch.equal(out[1], out_label)
        crops = [image[:, top : top + 20, left : left + 20] for top in range(11) for left in range(31)]
        assert sum(torch.equal(out, crop) or torch.equal(out, crop.flip(-1)) for crop in crops) == 1


def test_every_crop_position_edge_and_side_occurs() -> None:
    position = torch.arange(4 * 6, dtype=torch.uint8).reshape(4, 6)
    image = torch.stack([position] * 3)
    corners, mirrored, edges = set(), 0, set()
    for sample in range(600):
        rng = sample_rng(0, "s", 0, sample)
        out, _ = augment(image, None, rng, shorter_edge=None, crop=(2, 3), flip=True)
        mirror = bool(out[0, 0, 0] > out[0, 0, 1])
        mirrored += mirror
        corners.add(int(out[0, 0].min()))
        rng = sample_rng(0, "s", 0, sample)
        wide = torch.full((3, 10, 20), 9, dtype=torch.uint8)
        padded, _ = augment(wide, None, rng, shorter_edge=(5, 8), crop=(16, 32), flip=False)
        height, width = int((padded[0, :, 0] > 0).sum()), int((padded[0, 0] > 0).sum())
        assert width == 2 * height
        edges.add(height)
    assert corners == {6 * top + left for top in range(3) for left in range(4)}
    assert 250 < mirrored < 350
    assert edges == {5, 6, 7, 8}


def test_the_shorter_edge_may_be_the_width() -> None:
    image = torch.full((3, 60, 40), 200, dtype=torch.uint8)
    out, _ = augment(image, None, sample_rng(0, "s", 0, 0), shorter_edge=(20, 20), crop=(50, 50), flip=False)
    assert int((out[0, :, 0] > 0).sum()) == 30
    assert int((out[0, 0] > 0).sum()) == 20


def test_padding_is_black_and_ignored_and_at_the_bottom_right() -> None:
    image, label = torch.full((3, 3, 4), 7, dtype=torch.uint8), torch.ones(3, 4, dtype=torch.uint8)
    out, out_label = augment(image, label, sample_rng(0, "s", 0, 0), shorter_edge=None, crop=(5, 6), flip=False)
    assert out_label is not None
    expected = torch.full((5, 6), 255, dtype=torch.uint8)
    expected[:3, :4] = 1
    assert torch.equal(out_label, expected)
    assert torch.equal(out[0], torch.where(expected == 1, 7, 0).to(torch.uint8))


def test_the_draws_do_not_depend_on_the_label_or_the_settings() -> None:
    image, label = marked(48, 96, 16)
    for seed in range(5):
        rngs = [sample_rng(seed, "s", 0, 0) for _ in range(3)]
        with_label, _ = augment(image, label, rngs[0], shorter_edge=(30, 60), crop=(24, 24), flip=True)
        without, none = augment(image, None, rngs[1], shorter_edge=(30, 60), crop=(24, 24), flip=True)
        augment(image, None, rngs[2], shorter_edge=None, crop=(48, 96), flip=False)
        assert none is None
        assert torch.equal(with_label, without)
        assert len({float(rng.random()) for rng in rngs}) == 1


def test_the_arguments_are_left_alone() -> None:
    image, label = marked(48, 96, 16)
    before = image.clone(), label.clone()
    out, out_label = augment(image, label, np.random.default_rng(0), shorter_edge=None, crop=(20, 20), flip=True)
    assert torch.equal(image, before[0])
    assert torch.equal(label, before[1])
    assert out.is_contiguous()
    assert out_label is not None
    assert out_label.is_contiguous()


def test_resizing_for_the_test_averages_when_it_shrinks() -> None:
    checks = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 200
    image = torch.stack([checks.to(torch.uint8)] * 3)
    small = resize_for_test(image, (16, 16))
    assert small.dtype == torch.uint8
    assert small.shape == (3, 16, 16)
    assert (small.int() - 100).abs().max() <= 3  # without antialiasing it would be 0 or 200
    assert resize_for_test(image[None].repeat(2, 1, 1, 1), (8, 12)).shape == (2, 3, 8, 12)
