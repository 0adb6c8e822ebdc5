"""DenseNet-121 as in https://arxiv.org/abs/1608.06993, table 1 (its variant BC)."""

from __future__ import annotations

import torch
from torch import nn

DEPTHS = (6, 12, 24, 16)
GROWTH = 32


class DenseLayer(nn.Module):
    """BatchNormalization before each convolution; the result goes behind the input's channels."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, 4 * GROWTH, 1, bias=False),
            nn.BatchNorm2d(4 * GROWTH),
            nn.ReLU(),
            nn.Conv2d(4 * GROWTH, GROWTH, 3, padding=1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, inputs, H, W) to (N, inputs + GROWTH, H, W)."""
        return torch.cat([x, self.layers(x)], dim=1)


class DenseNet(nn.Module):
    """DenseNet-121."""

    def __init__(self) -> None:
        super().__init__()
        channels = 2 * GROWTH
        layers: list[nn.Module] = [
            nn.Conv2d(3, channels, 7, 2, 3, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        ]
        for block, depth in enumerate(DEPTHS):
            layers += [DenseLayer(channels + GROWTH * layer) for layer in range(depth)]
            channels += GROWTH * depth
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
            if block + 1 < len(DEPTHS):
                layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
                channels //= 2
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (N, 3, H, W) to logits (N, 1000)."""
        y: torch.Tensor = self.classifier(self.features(x).mean((2, 3)))
        return y
