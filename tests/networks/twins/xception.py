"""Xception in plain torch, after the author's code in Keras."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def max_pool_same(x: torch.Tensor) -> torch.Tensor:
    """3x3 at stride 2 to ceil(size / 2): odd sizes are padded on both sides, even ones behind."""
    height, width = x.shape[2:]
    x = nn.functional.pad(x, (width % 2, 1, height % 2, 1), value=-torch.inf)
    return nn.functional.max_pool2d(x, 3, 2)


class Separable(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, 1, 1, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise(self.depthwise(x))


class Stem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv1_bn = nn.Conv2d(3, 32, 3, 2, bias=False), norm(32)
        self.conv2, self.conv2_bn = nn.Conv2d(32, 64, 3, bias=False), norm(64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv1_bn(self.conv1(x)))
        return torch.relu(self.conv2_bn(self.conv2(x)))


class Separables(nn.Module):
    """Separable convolutions sepconv1, sepconv2 ..., each with its BatchNormalization."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        for index, width in enumerate(widths, 1):
            self.add_module(f"sepconv{index}", Separable(inputs, width))
            self.add_module(f"sepconv{index}_bn", norm(width))
            inputs = width
        self.count = len(widths)

    def separable(self, index: int, x: torch.Tensor) -> torch.Tensor:
        x = self.get_submodule(f"sepconv{index}")(x)
        return self.get_submodule(f"sepconv{index}_bn")(x)


class Residual(Separables):
    def __init__(self, inputs: int, widths: Sequence[int], shrink: bool, first_relu: bool) -> None:
        super().__init__(inputs, widths)
        self.shrink, self.first_relu = shrink, first_relu
        if shrink:
            self.residual = nn.Conv2d(inputs, widths[-1], 1, 2, bias=False)
            self.residual_bn = norm(widths[-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for index in range(1, self.count + 1):
            y = torch.relu(y) if index > 1 or self.first_relu else y
            y = self.separable(index, y)
        return max_pool_same(y) + self.residual_bn(self.residual(x)) if self.shrink else y + x


class Tail(Separables):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index in range(1, self.count + 1):
            x = torch.relu(self.separable(index, x))
        return x


class Xception(nn.Module):
    def __init__(self, middle_blocks: int = 8, classes: int = 1000) -> None:
        super().__init__()
        blocks = [
            Stem(),
            Residual(64, (128, 128), shrink=True, first_relu=False),
            Residual(128, (256, 256), shrink=True, first_relu=True),
            Residual(256, (728, 728), shrink=True, first_relu=True),
            *(Residual(728, (728,) * 3, False, first_relu=True) for _ in range(middle_blocks)),
            Residual(728, (728, 1024), shrink=True, first_relu=True),
            Tail(1024, (1536, 2048)),
        ]
        for number, block in enumerate(blocks, 1):
            self.add_module(f"block{number}", block)
        self.predictions = nn.Linear(2048, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *blocks, predictions = self.children()
        for block in blocks:
            x = block(x)
        return predictions(x.mean((2, 3)))
