"""MobileNetV2 in plain torch, its modules nested as in torchvision.models.mobilenet_v2."""

from __future__ import annotations

import torch
from torch import nn

STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip


def divisible(channels: float) -> int:
    """To a multiple of 8, never down by more than a tenth."""
    rounded = max(8, 8 * int((channels + 4) / 8))
    return rounded if rounded >= 0.9 * channels else rounded + 8


class ConvNormRelu6(nn.Sequential):
    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        rate: int = 1,
    ) -> None:
        padding = (kernel - 1) // 2 * rate
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding, rate, groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU6(),
        )


class InvertedResidual(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, stride: int, expansion: int, rate: int = 1
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [ConvNormRelu6(inputs, hidden, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand,
            ConvNormRelu6(hidden, hidden, 3, stride, hidden, rate),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


def features(width: float = 1.0, most_stride: int = 32) -> nn.Sequential:
    """Everything before the pooling; beyond ``most_stride`` strides become rates."""
    channels = divisible(32 * width)
    layers: list[nn.Module] = [ConvNormRelu6(3, channels, stride=2)]
    total, rate = 2, 1
    for expansion, outputs, repeats, stride in STAGES:
        wide = divisible(outputs * width)
        for repeat in range(repeats):
            step = stride if repeat == 0 else 1
            if total * step > most_stride:
                # This block still sees the grid of the one before.
                layers.append(InvertedResidual(channels, wide, 1, expansion, rate))
                rate *= step
            else:
                layers.append(InvertedResidual(channels, wide, step, expansion, rate))
                total *= step
            channels = wide
    return nn.Sequential(*layers, ConvNormRelu6(channels, divisible(1280 * max(1.0, width)), 1))


class MobileNetV2(nn.Module):
    def __init__(self, classes: int = 1000, width: float = 1.0) -> None:
        super().__init__()
        self.features = features(width)
        last = divisible(1280 * max(1.0, width))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean((2, 3)))
