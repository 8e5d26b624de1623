"""Running statistics of batch norm stay where they are asked to, and only then."""

import torch

from plca_dist.models.deeplab import build_network
from plca_dist.models.statistics import kept_statistics


def test_a_pass_normalizes_by_its_batch_and_leaves_the_running_statistics() -> None:
    torch.manual_seed(0)
    network = build_network("tiny", 5, rates=(1,)).train()
    image = torch.randint(256, (2, 3, 32, 48), dtype=torch.uint8)
    network(image)
    before = {name: b.clone() for name, b in network.named_buffers() if "running" in name}
    with kept_statistics(network):
        kept = network(image.flip(0))
    assert all(torch.equal(b, before[name]) for name, b in network.named_buffers() if "running" in name)
    moved = network(image.flip(0))
    assert torch.equal(kept.logits, moved.logits)
    assert any(not torch.equal(b, before[name]) for name, b in network.named_buffers() if "running" in name)
