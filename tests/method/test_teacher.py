"""The averaged teacher and its pseudo-labels, against plain loops in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from plca_dist.method.teacher import Teacher, average_into, decay_at, pseudo_labels


def test_the_decay_rises_from_the_plain_mean_to_its_bound() -> None:
    assert [decay_at(t, 0.75) for t in (1, 2, 3, 4, 5, 9)] == [0, 0.5, pytest.approx(2 / 3), 0.75, 0.75, 0.75]


def test_weights_are_averaged_once_a_step_and_buffers_copied() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).double()
    teacher = Teacher(network, decay=0.6)
    expected = {name: p.detach().clone() for name, p in network.named_parameters()}
    for done in range(1, 6):
        with torch.no_grad():
            for p in network.parameters():
                p += torch.randn_like(p)
            network[1].running_mean += 1
            network[1].num_batches_tracked += 1
        teacher.after_step(network, done)
        alpha = min(1 - 1 / done, 0.6)
        for name, p in network.named_parameters():
            expected[name] = alpha * expected[name] + (1 - alpha) * p.detach()
            torch.testing.assert_close(dict(teacher.network.named_parameters())[name].data, expected[name])
        for own, other in zip(teacher.network.buffers(), network.buffers(), strict=True):
            assert torch.equal(own, other)
            assert own.data_ptr() != other.data_ptr()
    assert not any(p.requires_grad for p in teacher.network.parameters())
    assert all(p.requires_grad for p in network.parameters())


def test_the_state_of_a_teacher_comes_back() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    one, other = Teacher(network, 0.5), Teacher(nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)), 0.5)
    one.after_step(network, 3)
    other.load_state_dict(one.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    with pytest.raises(RuntimeError):
        other.load_state_dict({"0.weight": torch.zeros(1)})


def test_the_average_is_exact_where_both_are_equal() -> None:
    weights = torch.randn(1000)
    frozen = weights.clone()
    for done in range(1, 50):
        average_into([frozen], [weights], decay_at(done, 0.97))
    assert torch.equal(frozen, weights)


def test_pseudo_labels_are_the_likeliest_classes_and_each_image_counts_by_its_own_share() -> None:
    torch.manual_seed(1)
    logits = 4 * torch.randn(3, 4, 5, 6, dtype=torch.float64)
    logits[1] /= 10  # an image that nothing is sure of
    found = pseudo_labels(logits, (17, 23), 0.8, ignore_top=0.15, ignore_bottom=0.1)
    upsampled = F.interpolate(logits, (17, 23), mode="bilinear", align_corners=False)
    shares = []
    for b in range(3):
        sure = 0
        for y in range(17):
            for x in range(23):
                p = upsampled[b, :, y, x].softmax(0)
                assert found.labels_BHW[b, y, x] == p.argmax()
                sure += bool(p.max() >= 0.8)
        shares.append(sure / (17 * 23))
        expected = torch.full((17, 23), shares[-1], dtype=torch.float64)
        expected[:3] = 0  # 2.55 rows
        expected[-2:] = 0  # 1.7
        torch.testing.assert_close(found.weight_BHW[b], expected)
    assert 0.1 < shares[0] < 0.9
    assert shares[1] == 0
    torch.testing.assert_close(found.confident, torch.tensor(sum(shares) / 3, dtype=torch.float64))


def test_without_margins_every_pixel_counts() -> None:
    found = pseudo_labels(torch.zeros(1, 2, 3, 3), (6, 6), 0.5)
    assert torch.equal(found.weight_BHW, torch.ones(1, 6, 6))
