"""MobileNetV1 in plain torch."""

from __future__ import annotations

import torch
from torch import nn

BLOCKS = "64 128/2 128 256/2 256 512/2 512 512 512 512 512 1024/2 1024"
"""Channels and stride, 1 where none is given."""


class ConvNormRelu(nn.Conv2d):
    """A convolution that owns the BatchNormalization behind it."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, 1, groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(super().forward(x)))


class Separable(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = ConvNormRelu(inputs, inputs, 3, stride, inputs)
        self.pointwise = ConvNormRelu(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise(self.depthwise(x))


class MobileNetV1(nn.Module):
    def __init__(self, classes: int = 1000, width: float = 1.0) -> None:
        super().__init__()
        channels = int(32 * width)
        self.stem = ConvNormRelu(3, channels, stride=2)
        for number, block in enumerate(BLOCKS.split(), 1):
            outputs, _, stride = block.partition("/")
            wide = int(int(outputs) * width)
            self.add_module(f"block{number}", Separable(channels, wide, int(stride or 1)))
            channels = wide
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *layers, classifier = self.children()
        for layer in layers:
            x = layer(x)
        return classifier(x.mean((2, 3)))
