"""U-Net in plain torch, its modules nested as in https://github.com/milesial/Pytorch-UNet."""

from __future__ import annotations

import torch
from torch import nn


class DoubleConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, between: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(inputs, between, 3, padding=1, bias=False),
            nn.BatchNorm2d(between),
            nn.ReLU(),
            nn.Conv2d(between, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.double_conv(x)
        return y


class Down(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(
            nn.MaxPool2d(2), DoubleConv(inputs, outputs, between=outputs)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.maxpool_conv(x)
        return y


class Up(nn.Module):
    def __init__(self, inputs: int, outputs: int, bilinear: bool) -> None:
        super().__init__()
        self.up: nn.Module
        if bilinear:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = DoubleConv(inputs, outputs, between=inputs // 2)
        else:
            self.up = nn.ConvTranspose2d(inputs, inputs // 2, 2, stride=2)
            self.conv = DoubleConv(inputs, outputs, between=outputs)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        x = self.up(x)
        height, width = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
        above, left = height // 2, width // 2
        x = nn.functional.pad(x, [left, width - left, above, height - above])
        y: torch.Tensor = self.conv(torch.cat([skip, x], dim=1))
        return y


class UNet(nn.Module):
    def __init__(
        self, classes: int = 1, depth: int = 4, base: int = 64, bilinear: bool = False
    ) -> None:
        super().__init__()
        factor = 2 if bilinear else 1
        self.depth = depth
        self.inc = DoubleConv(3, base, between=base)
        channels = base
        for level in range(1, depth + 1):
            deepest = level == depth
            outputs = 2 * channels // factor if deepest else 2 * channels
            setattr(self, f"down{level}", Down(channels, outputs))
            channels *= 2
        for level in range(1, depth + 1):
            outputs = channels // 2 if level == depth else channels // 2 // factor
            setattr(self, f"up{level}", Up(channels, outputs, bilinear))
            channels //= 2
        self.outc = nn.ModuleDict({"conv": nn.Conv2d(base, classes, 1)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = [self.inc(x)]
        for level in range(1, self.depth + 1):
            skips.append(getattr(self, f"down{level}")(skips[-1]))
        x = skips.pop()
        for level in range(1, self.depth + 1):
            x = getattr(self, f"up{level}")(x, skips.pop())
        y: torch.Tensor = self.outc["conv"](x)
        return y
