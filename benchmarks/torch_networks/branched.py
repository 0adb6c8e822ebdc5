"""The convolution of RepVGG and MobileOne: parallel branches that one convolution can replace."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn


class ConvNorm(nn.Module):
    """A convolution that keeps the size, up to its stride, and its BatchNormalization."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        padding = kernel // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y: torch.Tensor = self.norm(self.conv(x))
        return y


class BranchedConv(nn.Module):
    """ReLU of a sum: ``branches`` convolutions, one of size 1, and the input where shapes allow.

    RepVGG (https://arxiv.org/abs/2101.03697) has one branch of size 3, MobileOne
    (https://arxiv.org/abs/2206.04040) several of either size.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        branches: int = 1,
    ) -> None:
        super().__init__()
        kernels = [kernel] * branches + [1] * (kernel > 1)
        self.convs = nn.ModuleList(ConvNorm(inputs, outputs, k, stride, groups) for k in kernels)
        self.skip = nn.BatchNorm2d(inputs) if stride == 1 and inputs == outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y = self.convs[0](x)
        for conv in self.convs[1:]:
            y = y + conv(x)
        return torch.relu(y if self.skip is None else y + self.skip(x))

    @torch.no_grad()
    def merged(self) -> nn.Sequential:
        """One convolution that computes the same (section 3.3 of RepVGG)."""
        branches = cast(list[ConvNorm], list(self.convs))
        first = branches[0].conv
        folds = [(branch.conv.weight, branch.norm) for branch in branches]
        if self.skip is not None:
            identity = nn.init.dirac_(torch.empty_like(first.weight), first.groups)
            folds.append((nn.Parameter(identity), self.skip))
        merged = copy.deepcopy(first)
        merged.weight.zero_()
        bias = torch.zeros_like(merged.weight[:, 0, 0, 0])
        for weight, norm in folds:
            assert norm.running_var is not None
            assert norm.running_mean is not None
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            border = (first.kernel_size[0] - weight.shape[-1]) // 2
            merged.weight += scale[:, None, None, None] * nn.functional.pad(weight, [border] * 4)
            bias += norm.bias - scale * norm.running_mean
        merged.bias = nn.Parameter(bias)
        return nn.Sequential(merged, nn.ReLU())


def merge_branches(network: nn.Module) -> nn.Module:
    """Copy a network in evaluation mode with every ``BranchedConv`` replaced by one convolution."""
    network = copy.deepcopy(network)
    for name, module in list(network.named_modules()):
        if isinstance(module, BranchedConv):
            network.set_submodule(name, module.merged())
    return network
