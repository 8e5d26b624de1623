"""The network and the weight file of the paper's authors, built from their description alone.

Nothing of `plca_dist.models` is used here.
"""

import io

import torch
from torch import Tensor, nn

#: Classes in the order of the heads' rows.
ORDER = (
    "sky", "building", "road", "sidewalk", "fence", "vegetation", "pole", "car", "traffic sign", "person", "bicycle",
    "motorcycle", "traffic light", "rider", "bus", "wall", "terrain", "truck", "train",
)  # fmt: skip
MEAN_BGR = (104.00698793, 116.66876762, 122.67891434)


class _Block(nn.Module):
    def __init__(self, channels: int, width: int, stride: int, dilation: int, first: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, stride=stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        if first:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, 4 * width, 1, stride=stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return torch.relu(self.bn3(self.conv3(x)) + shortcut)


class _Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, (blocks, width, stride, dilation) in enumerate(
            [(3, 64, 1, 1), (4, 128, 2, 1), (23, 256, 1, 2), (3, 512, 1, 4)], start=1
        ):
            layers = []
            for i in range(blocks):
                layers.append(_Block(channels, width, stride if i == 0 else 1, dilation, first=i == 0))
                channels = 4 * width
            setattr(self, f"layer{stage}", nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = nn.functional.max_pool2d(x, 3, stride=2, padding=1, ceil_mode=True)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class _Head(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2048, classes, 3, padding=rate, dilation=rate, bias=False))
            for rate in (6, 12, 18, 24)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([conv(x) for conv in self.convs]).sum(0)


class AuthorsNetwork(nn.Module):
    """Images (B, 3, H, W), BGR in 0-255 minus MEAN_BGR -> logits (B, K, h, w), classes in ORDER. In evaluation mode."""

    def __init__(self, classes: int = 19, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = _Backbone()
        self.classifier = nn.ModuleList([_Head(classes)])
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.BatchNorm2d):
                # No value stays at its default, and the sum over 33 blocks stays bounded.
                nn.init.uniform_(module.weight, 0.1, 0.5) if name.endswith("bn3") else nn.init.uniform_(module.weight)
                nn.init.normal_(module.bias, std=0.1)
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
                module.num_batches_tracked.fill_(7)
        self.eval()

    def forward(self, bgr_minus_mean_B3HW: Tensor) -> Tensor:
        return self.classifier[0](self.backbone(bgr_minus_mean_B3HW))

    def file(self) -> bytes:
        """The bytes of a file as the authors save it."""
        buffer = io.BytesIO()
        torch.save({"weights": self.state_dict()}, buffer)
        return buffer.getvalue()
