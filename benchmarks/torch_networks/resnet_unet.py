"""A U-Net on ResNet-34, as segmentation_models.pytorch builds it by default.

The encoder is https://arxiv.org/abs/1512.03385, the form https://arxiv.org/abs/1505.04597; the
decoder enlarges to the nearest neighbour, appends what the encoder had there, and convolves twice.
"""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.torch_networks.branched import ConvNorm

ENCODER = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Channels and blocks of each stage."""

DECODER = (256, 128, 64, 32, 16)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvNorm(inputs, outputs, 3, stride), nn.ReLU(), ConvNorm(outputs, outputs)
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else ConvNorm(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        return torch.relu(self.layers(x) + self.shortcut(x))


class Up(nn.Module):
    """One step of the decoder."""

    def __init__(self, inputs: int, skipped: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvNorm(inputs + skipped, outputs), nn.ReLU(), ConvNorm(outputs, outputs), nn.ReLU()
        )

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None) -> torch.Tensor:
        """Map (N, inputs, H, W) and (N, skipped, 2H, 2W) to (N, outputs, 2H, 2W)."""
        x = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
        y: torch.Tensor = self.layers(x if skip is None else torch.cat([x, skip], dim=1))
        return y


class ResNetUNet(nn.Module):
    """Sizes of images must be multiples of 32."""

    def __init__(self, classes: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()
        )
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.stages = nn.ModuleList()
        inputs = 64
        for stage, (outputs, depth) in enumerate(ENCODER):
            first = BasicBlock(inputs, outputs, 1 if stage == 0 else 2)
            rest = [BasicBlock(outputs, outputs, 1) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(first, *rest))
            inputs = outputs
        skipped = [*reversed([64, *(channels for channels, _ in ENCODER[:-1])]), 0]
        steps = zip([inputs, *DECODER], skipped, DECODER, strict=False)
        self.ups = nn.ModuleList(Up(*step) for step in steps)
        self.head = nn.Conv2d(DECODER[-1], classes, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (N, 3, H, W) to logits (N, classes, H, W)."""
        maps = [self.stem(x)]
        maps.append(self.stages[0](self.pool(maps[-1])))
        for stage in self.stages[1:]:
            maps.append(stage(maps[-1]))
        x = maps.pop()
        for up in self.ups:
            x = up(x, maps.pop() if maps else None)
        y: torch.Tensor = self.head(x)
        return y
