"""DeepLabV3 in plain torch, its modules nested as in torchvision.models.segmentation.deeplabv3."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import interpolate

from tests.networks.twins.mobilenet_v2 import features
from tests.networks.twins.resnext import ResNeXt


class ResNet50(ResNeXt):
    """The features alone."""

    def __init__(self, output_stride: int) -> None:
        super().__init__(groups=1, width_per_group=64, dilate=(False, output_stride == 8, True))
        del self.fc

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)


class Pooling(nn.Sequential):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[-2:]
        return interpolate(super().forward(x), size=size, mode="bilinear", align_corners=False)


def conv_norm_relu(inputs: int, outputs: int, kernel: int, rate: int = 1) -> list[nn.Module]:
    padding = rate * (kernel // 2)
    return [
        nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=rate, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


class Pyramid(nn.Module):
    def __init__(self, inputs: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                nn.Sequential(*conv_norm_relu(inputs, 256, 1)),
                *(nn.Sequential(*conv_norm_relu(inputs, 256, 3, rate)) for rate in rates),
                Pooling(inputs, 256),
            ]
        )
        self.project = nn.Sequential(
            *conv_norm_relu(256 * len(self.convs), 256, 1), nn.Dropout(0.5)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.project(torch.cat([conv(x) for conv in self.convs], dim=1))
        return y


class DeepLabV3(nn.Module):
    def __init__(
        self,
        classes: int = 21,
        backbone: str = "resnet50",
        output_stride: int = 8,
        rates: Sequence[int] = (12, 24, 36),
    ) -> None:
        super().__init__()
        self.backbone: nn.Module
        if backbone == "resnet50":
            self.backbone, channels = ResNet50(output_stride), 2048
        else:
            self.backbone, channels = features(most_stride=output_stride), 1280
        self.classifier = nn.Sequential(
            Pyramid(channels, rates),
            *conv_norm_relu(256, 256, 3),
            nn.Conv2d(256, classes, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.classifier(self.backbone(x))
        return interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)


def auxiliary_classifier(classes: int = 21) -> nn.Sequential:
    """What torchvision adds on the third stage for training: its FCNHead."""
    return nn.Sequential(*conv_norm_relu(1024, 256, 3), nn.Dropout(0.1), nn.Conv2d(256, classes, 1))
