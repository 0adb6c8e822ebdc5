"""DCGAN's generator in plain torch, as in pytorch/examples/dcgan, for any number of doublings."""

from __future__ import annotations

import torch
from torch import nn


class Generator(nn.Module):
    def __init__(
        self, latent: int = 100, base: int = 64, channels: int = 3, doublings: int = 4
    ) -> None:
        super().__init__()
        widths = [base * 2**power for power in reversed(range(doublings))]
        layers: list[nn.Module] = []
        for inputs, outputs in zip([latent, *widths], widths, strict=False):
            stride, padding = (2, 1) if layers else (1, 0)
            layers += [
                nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.main = nn.Sequential(
            *layers, nn.ConvTranspose2d(base, channels, 4, 2, 1, bias=False), nn.Tanh()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.main(x)
        return y
