"""Jitter and blur of a batch: each image by its own numbers, against torchvision one image at a time."""

import pytest
import torch
import torchvision.transforms.v2.functional as tvf

from plca_dist.method.strong_augmentation import DRAWS, strongly_augmented


def draws(*, jittered: bool = False, blurred: bool = False, sigma: float = 0.5) -> torch.Tensor:
    return torch.tensor([[0.0 if jittered else 0.9, 0.5, 0.5, 0.5, 0.5, 0.0 if blurred else 0.9, sigma]])


@pytest.fixture
def image() -> torch.Tensor:
    """Colours from 60 to 160, which no factor near 1 takes out of 0-255."""
    return 60 + 100 * torch.rand(1, 3, 17, 24, generator=torch.Generator().manual_seed(0))


def test_what_is_not_chosen_stays_to_the_bit(image: torch.Tensor) -> None:
    for one in (image, image.byte()):
        assert torch.equal(strongly_augmented(one, draws(), jitter=0.25, blur=True), one.float())
        everything = draws(jittered=True, blurred=True)
        assert torch.equal(strongly_augmented(one, everything, jitter=0.0, blur=False), one.float())


@pytest.mark.parametrize("draw", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("which", ["brightness", "contrast", "saturation"])
def test_each_factor_is_torchvisions(image: torch.Tensor, which: str, draw: float) -> None:
    numbers = draws(jittered=True)
    numbers[0, 1 + ("brightness", "contrast", "saturation").index(which)] = draw
    found = strongly_augmented(image, numbers, jitter=0.2, blur=False)
    factor = 0.8 + 0.4 * draw
    expected = getattr(tvf, f"adjust_{which}")(image / 255, factor) * 255
    torch.testing.assert_close(found, expected, atol=0.05, rtol=1e-3)  # torchvision's grey has other last digits


def test_a_turn_of_hue_keeps_the_brightness_and_greys(image: torch.Tensor) -> None:
    numbers = draws(jittered=True)
    numbers[0, 4] = 1.0
    found = strongly_augmented(image, numbers, jitter=0.1, blur=False)
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    torch.testing.assert_close((found * luma).sum(1), (image * luma).sum(1), atol=1e-2, rtol=0)
    assert (found - image).abs().max() > 10
    grey = image[:, :1].expand_as(image)
    torch.testing.assert_close(strongly_augmented(grey, numbers, jitter=0.1, blur=False), grey, atol=0.05, rtol=0)


@pytest.mark.parametrize("sigma", [0.0, 0.5, 0.999])
def test_blur_is_torchvisions(image: torch.Tensor, sigma: float) -> None:
    found = strongly_augmented(image, draws(blurred=True, sigma=sigma), jitter=0.0, blur=True)
    expected = tvf.gaussian_blur(image, [9, 9], [0.15 + sigma, 0.15 + sigma])
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


def test_an_image_does_not_depend_on_those_beside_it() -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (8, 3, 16, 24), generator=generator, dtype=torch.uint8)
    numbers = torch.rand(8, DRAWS, generator=generator)
    whole = strongly_augmented(images, numbers, jitter=0.25, blur=True)
    assert whole.min() >= 0
    assert whole.max() <= 255
    for k in range(8):
        alone = strongly_augmented(images[k : k + 1], numbers[k : k + 1], jitter=0.25, blur=True)
        torch.testing.assert_close(alone[0], whole[k], atol=1e-3, rtol=0)


def test_autocast_leaves_pixels_alone(image: torch.Tensor) -> None:
    numbers = draws(jittered=True, blurred=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = strongly_augmented(image, numbers, jitter=0.25, blur=True)
    assert torch.equal(found, strongly_augmented(image, numbers, jitter=0.25, blur=True))
