"""RepVGG as in https://arxiv.org/abs/2101.03697, table 2, with the branches of training."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.torch_networks.branched import BranchedConv

DEPTHS = (2, 4, 14, 1)


class RepVGG(nn.Module):
    """RepVGG-A0; others differ in the widths of their stages, the stem's first, and depths."""

    def __init__(self, widths: tuple[int, ...] = (48, 48, 96, 192, 1280)) -> None:
        super().__init__()
        blocks = [BranchedConv(3, widths[0], stride=2)]
        for depth, inputs, outputs in zip(DEPTHS, widths[:-1], widths[1:], strict=True):
            blocks.append(BranchedConv(inputs, outputs, stride=2))
            blocks += [BranchedConv(outputs, outputs) for _ in range(depth - 1)]
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(widths[-1], 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (N, 3, H, W) to logits (N, 1000)."""
        y: torch.Tensor = self.classifier(self.blocks(x).mean((2, 3)))
        return y
