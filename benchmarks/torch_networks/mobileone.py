"""MobileOne as in https://arxiv.org/abs/2206.04040, table 2, with the branches of training."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.torch_networks.branched import BranchedConv

DEPTHS = (2, 8, 10, 1)


class MobileOne(nn.Module):
    """MobileOne-S0; others differ in the widths of their stages, the stem's first, and branches."""

    def __init__(
        self, widths: tuple[int, ...] = (48, 48, 128, 256, 1024), branches: int = 4
    ) -> None:
        super().__init__()
        blocks = [BranchedConv(3, widths[0], stride=2)]
        for depth, inputs, outputs in zip(DEPTHS, widths[:-1], widths[1:], strict=True):
            for block in range(depth):
                channels, stride = (inputs, 2) if block == 0 else (outputs, 1)
                blocks += [
                    BranchedConv(channels, channels, 3, stride, channels, branches),
                    BranchedConv(channels, outputs, 1, branches=branches),
                ]
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(widths[-1], 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (N, 3, H, W) to logits (N, 1000)."""
        y: torch.Tensor = self.classifier(self.blocks(x).mean((2, 3)))
        return y
