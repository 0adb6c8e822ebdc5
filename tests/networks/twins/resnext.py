"""ResNeXt in plain torch, its modules nested as in torchvision.models.resnet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class Bottleneck(nn.Module):
    def __init__(
        self, inputs: int, planes: int, stride: int, groups: int, base_width: int, rate: int
    ) -> None:
        super().__init__()
        width, outputs = int(planes * base_width / 64) * groups, 4 * planes
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, rate, rate, groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNeXt(nn.Module):
    """With ``replace_stride_with_dilation`` of the last three stages, as torchvision has it."""

    def __init__(
        self,
        depths: Sequence[int] = (3, 4, 6, 3),
        groups: int = 32,
        width_per_group: int = 4,
        classes: int = 1000,
        dilate: Sequence[bool] = (False, False, False),
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs, rate = 64, 1
        for stage, (depth, dilated) in enumerate(zip(depths, (False, *dilate), strict=True)):
            planes, stride, first_rate = 64 << stage, 1 if stage == 0 else 2, rate
            if dilated:
                stride, rate = 1, rate * 2
            blocks = []
            for block in range(depth):
                step = (stride, first_rate) if block == 0 else (1, rate)
                blocks.append(Bottleneck(inputs, planes, step[0], groups, width_per_group, step[1]))
                inputs = 4 * planes
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x).mean((2, 3)))
