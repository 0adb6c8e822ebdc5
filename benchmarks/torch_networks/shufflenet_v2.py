"""ShuffleNetV2 x1.0 as in https://arxiv.org/abs/1807.11164, table 5."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.torch_networks.branched import ConvNorm

STAGES = ((116, 4), (232, 8), (464, 4))
"""Channels and repeats."""


def shuffle(x: torch.Tensor) -> torch.Tensor:
    """Interleave the two halves of the channels of (N, C, H, W)."""
    batch, channels, height, width = x.shape
    halves = x.view(batch, 2, channels // 2, height, width)
    return halves.transpose(1, 2).reshape(batch, channels, height, width)


def branch(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """1x1, 3x3 depthwise, 1x1."""
    return nn.Sequential(
        ConvNorm(inputs, outputs, 1),
        nn.ReLU(),
        ConvNorm(outputs, outputs, 3, stride, outputs),
        ConvNorm(outputs, outputs, 1),
        nn.ReLU(),
    )


class Unit(nn.Module):
    """Half of the channels pass as they are (figure 3c)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = branch(channels // 2, channels // 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape (N, channels, H, W)."""
        kept, changed = x.chunk(2, dim=1)
        return shuffle(torch.cat([kept, self.branch(changed)], dim=1))


class Reduction(nn.Module):
    """All channels go through both branches, at stride 2 (figure 3d)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.left = nn.Sequential(
            ConvNorm(inputs, inputs, 3, 2, inputs), ConvNorm(inputs, outputs // 2, 1), nn.ReLU()
        )
        self.right = branch(inputs, outputs // 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / 2, W / 2)."""
        return shuffle(torch.cat([self.left(x), self.right(x)], dim=1))


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 x1.0."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [ConvNorm(3, 24, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        inputs = 24
        for outputs, repeats in STAGES:
            layers += [Reduction(inputs, outputs), *(Unit(outputs) for _ in range(repeats - 1))]
            inputs = outputs
        self.features = nn.Sequential(*layers, ConvNorm(inputs, 1024, 1), nn.ReLU())
        self.classifier = nn.Linear(1024, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (N, 3, H, W) to logits (N, 1000)."""
        y: torch.Tensor = self.classifier(self.features(x).mean((2, 3)))
        return y
