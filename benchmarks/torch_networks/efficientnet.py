"""EfficientNet-B0 as in https://arxiv.org/abs/1905.11946, table 1."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.torch_networks.branched import ConvNorm

STAGES = (
    (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4), (6, 3, 1, 320, 1),
)  # fmt: skip
"""Expansion, kernel, stride, channels and repeats."""


class SqueezeExcite(nn.Module):
    """Channels weighted by what their means say (https://arxiv.org/abs/1709.01507)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape (N, channels, H, W)."""
        mean = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.expand(nn.functional.silu(self.reduce(mean))))


class MBConv(nn.Module):
    """An inverted residual with a gate."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand: list[nn.Module] = [ConvNorm(inputs, hidden, 1), nn.SiLU()] if expansion > 1 else []
        self.layers = nn.Sequential(
            *expand,
            ConvNorm(hidden, hidden, kernel, stride, hidden),
            nn.SiLU(),
            SqueezeExcite(hidden, inputs // 4),
            ConvNorm(hidden, outputs, 1),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y: torch.Tensor = self.layers(x)
        return x + y if self.shortcut else y


class EfficientNet(nn.Module):
    """EfficientNet-B0."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [ConvNorm(3, 32, 3, 2), nn.SiLU()]
        channels = 32
        for expansion, kernel, stride, outputs, repeats in STAGES:
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                layers.append(MBConv(channels, outputs, expansion, kernel, step))
                channels = outputs
        self.features = nn.Sequential(*layers, ConvNorm(channels, 1280, 1), nn.SiLU())
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (N, 3, H, W) to logits (N, 1000)."""
        y: torch.Tensor = self.classifier(self.features(x).mean((2, 3)))
        return y
