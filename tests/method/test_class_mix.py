"""Class-mix, masked consistency and feature distance, against plain loops in float64, with their gradients."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from plca_dist.method.class_mix import ClassMix, chosen_classes, mixed
from plca_dist.method.feature_distance import FeatureDistance, cells_of_things, feature_distance
from plca_dist.method.masked_consistency import MaskedConsistency, masked, patches
from plca_dist.method.output import NetworkOutput
from plca_dist.method.teacher import PseudoLabels
from plca_dist.method.terms import Scene
from plca_dist.method.weighted_cross_entropy import weighted_cross_entropy

K = 5


def labels(seed: int = 0, size: tuple[int, int] = (12, 16)) -> Tensor:
    """Of four images: many classes, three, one, and none; 255 in all of them."""
    torch.manual_seed(seed)
    found = torch.randint(K, (4, *size))
    found[1] = torch.randint(3, size)
    found[2] = 4
    found[:, :2] = 255
    found[3] = 255
    return found


def test_half_of_the_classes_that_are_present_are_chosen_by_the_least_draws() -> None:
    torch.manual_seed(2)
    seen = labels()
    for _ in range(20):
        draws = torch.rand(4, K)
        chosen = chosen_classes(seen, draws)
        for b in range(4):
            present = [k for k in range(K) if k in seen[b].tolist() or (seen[b] == k).any()]
            expected = sorted(present, key=lambda k: draws[b, k])[: math.ceil(len(present) / 2)]
            assert chosen[b].nonzero().flatten().tolist() == sorted(expected)


def test_the_mixed_image_has_the_chosen_classes_of_the_source_and_the_rest_of_the_target() -> None:
    torch.manual_seed(3)
    seen, draws = labels(), torch.rand(4, K)
    source, target = (torch.randint(256, (4, 3, 12, 16), dtype=torch.uint8) for _ in range(2))
    pseudo = PseudoLabels(torch.randint(K, (4, 12, 16)), torch.rand(4, 12, 16), torch.tensor(0.5))
    found = mixed(source, seen, target, pseudo, draws)
    chosen, pasted = chosen_classes(seen, draws), 0
    for b in range(4):
        for y in range(12):
            for x in range(16):
                paste = seen[b, y, x] != 255 and bool(chosen[b, seen[b, y, x]])
                pasted += paste
                image, label, weight = (
                    (source, seen[b, y, x], 1.0) if paste else (target, pseudo.labels_BHW[b, y, x], None)
                )
                assert torch.equal(found.image_B3HW[b, :, y, x], image[b, :, y, x])
                assert found.labels_BHW[b, y, x] == label
                assert found.weight_BHW[b, y, x] == (pseudo.weight_BHW[b, y, x] if weight is None else weight)
    assert 100 < pasted < 500
    assert (found.labels_BHW != 255).all(), "ignored pixels are never pasted"


@pytest.mark.parametrize("size", [(8, 20), (20, 10)])
def test_a_source_of_another_size_is_laid_on_the_corner(size: tuple[int, int]) -> None:
    torch.manual_seed(4)
    seen = labels(size=size)
    source, target = torch.full((4, 3, *size), 7, dtype=torch.uint8), torch.zeros(4, 3, 12, 16, dtype=torch.uint8)
    pseudo = PseudoLabels(torch.zeros(4, 12, 16, dtype=torch.long), torch.rand(4, 12, 16), torch.tensor(0.5))
    found = mixed(source, seen, target, pseudo, torch.rand(4, K))
    height, width = min(size[0], 12), min(size[1], 16)
    pasted = found.image_B3HW[:, 0] == 7
    assert pasted[:2, :height, :width].any()
    assert not pasted[:, height:].any()
    assert not pasted[:, :, width:].any()
    assert (found.labels_BHW[pasted] == seen[:, :height, :width][pasted[:, :height, :width]]).all()


def test_the_loss_is_the_mean_over_all_pixels_of_weighted_cross_entropies() -> None:
    torch.manual_seed(5)
    logits = torch.randn(4, K, 3, 4, dtype=torch.float64, requires_grad=True)
    seen, weights = labels(), torch.rand(4, 12, 16, dtype=torch.float64)
    upsampled = F.interpolate(logits, (12, 16), mode="bilinear", align_corners=False)
    total = 0.0
    for b in range(4):
        for y in range(12):
            for x in range(16):
                if seen[b, y, x] != 255:
                    total = total - weights[b, y, x] * upsampled[b, :, y, x].log_softmax(0)[seen[b, y, x]]
    expected = total / (4 * 12 * 16)
    found = weighted_cross_entropy(logits, seen, weights)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits, retain_graph=True) for loss in (found, expected)))
    assert torch.autograd.gradcheck(lambda z: weighted_cross_entropy(z, seen, weights), logits)


def test_patches_are_hidden_by_their_draws() -> None:
    torch.manual_seed(6)
    image = 255 * torch.rand(2, 3, 12, 16)
    assert patches((12, 16), 5) == (3, 4)
    draws = torch.rand(2, 12)
    found = masked(image, draws, block=5, ratio=0.7, colour=(1.0, 2.0, 3.0))
    for b in range(2):
        for y in range(12):
            for x in range(16):
                kept = draws[b, (y // 5) * 4 + x // 5] >= 0.7
                expected = image[b, :, y, x] if kept else torch.tensor([1.0, 2.0, 3.0])
                assert torch.equal(found[b, :, y, x], expected)


def test_distance_is_taken_where_a_cell_is_of_one_thing() -> None:
    torch.manual_seed(7)
    seen = labels().repeat_interleave(2, 1)[:, :12]
    seen[0, 4:, :8] = 1
    seen[1, 4:, 8:] = 2  # no thing
    features, fixed = (torch.randn(4, 6, 4, 4, dtype=torch.float64, requires_grad=r) for r in (True, False))
    cells = cells_of_things(seen, [1, 4], (4, 4), 0.75)
    total, count = 0.0, []
    for b in range(4):
        inside = []
        for y in range(4):
            for x in range(4):
                block = seen[b, 3 * y : 3 * y + 3, 4 * x : 4 * x + 4]
                counts = any((block == k).double().mean() >= 0.75 for k in (1, 4))
                assert bool(cells[b, y, x]) == counts
                if counts:
                    inside.append((features[b, :, y, x] - fixed[b, :, y, x]).square().sum().sqrt())
        count.append(len(inside))
        total = total + (sum(inside) / len(inside) if inside else 0)
    assert count[0] >= 4
    assert count[3] == 0
    found = feature_distance(features, fixed, cells)
    torch.testing.assert_close(found, total / 4)
    torch.testing.assert_close(*(torch.autograd.grad(loss, features, retain_graph=True) for loss in (found, total / 4)))
    assert torch.autograd.gradcheck(lambda f: feature_distance(f, fixed, cells), features)
    at_rest = fixed.clone().requires_grad_()
    feature_distance(at_rest, fixed, cells).backward()
    assert at_rest.grad is not None
    assert at_rest.grad.isfinite().all(), "where nothing has moved"


def network(image: Tensor, *, keep_statistics: bool = False) -> NetworkOutput:
    """A network without weights: a pixel depends on its image alone."""
    grid = F.avg_pool2d(image.double() / 255, 4)
    return NetworkOutput(grid, torch.cat([grid, grid.flip(1)[:, :2] ** 2], 1) * WEIGHT)


WEIGHT = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)


def scene(chosen: list[int]) -> Scene:
    torch.manual_seed(8)
    source, target = (torch.randint(256, (4, 3, 12, 16), dtype=torch.uint8)[chosen] for _ in range(2))
    draws = {"class_mix": torch.rand(4, K), "masked_consistency": torch.rand(4, 12)}

    def draw(name: str, count: int) -> Tensor:
        found = draws[name] if name in draws else torch.full((4, count), 0.9)
        assert found.shape == (4, count)
        return found[chosen]

    return Scene(network(source), labels()[chosen], network(target), source, target, network, draw)


def teacher_says(image: Tensor) -> PseudoLabels:
    share = image.double().mean((1, 2, 3)) / 255
    return PseudoLabels(image[:, 0].long() % K, share[:, None, None].expand(-1, 12, 16), share.mean())


def terms() -> list:
    calls = SimpleNamespace(number=0)

    def labelling(image: Tensor) -> PseudoLabels:
        calls.number += 1
        return teacher_says(image)

    found = [
        ClassMix(labelling, lambda image, draws: image),
        MaskedConsistency(labelling, lambda image, draws: image, block=4, ratio=0.7, colour=(9.0, 8.0, 7.0)),
        FeatureDistance(lambda image: network(image).features + 1, [0, 1, 4], 0.5),
    ]
    found[0].calls = calls
    return found


def test_no_term_depends_on_how_a_batch_is_split() -> None:
    for term in terms():
        whole = term(scene([0, 1, 2, 3]))
        assert set(whole) == {term.name} | ({"confident"} if term.name != "feature_distance" else set())
        for parts in ([[0, 1], [2, 3]], [[0], [1], [2], [3]]):
            split = [term(scene(part)) for part in parts]
            for name, value in whole.items():
                mean = torch.stack([s[name].double() for s in split]).mean()
                torch.testing.assert_close(value.double(), mean, rtol=1e-12, atol=1e-12)
        if term.name != "feature_distance":
            (whole_gradient,) = torch.autograd.grad(whole[term.name], WEIGHT)
            assert whole_gradient != 0


def test_terms_share_the_teachers_labels_of_a_scene() -> None:
    mix, mask, _ = terms()
    one = scene([0, 1, 2, 3])
    mix(one), mask(one)
    assert mix.calls.number == 1
    mix(scene([0]))
    assert mix.calls.number == 2
