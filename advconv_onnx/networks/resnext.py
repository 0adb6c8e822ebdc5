"""ResNeXt (Xie et al. 2017): residual blocks around grouped convolutions.

Each block narrows with a pointwise convolution, convolves groups of channels apart from each other,
widens again, and adds its input. Parameters have torchvision's names.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import onnx_ir as ir

from advconv_onnx.errors import InputError
from advconv_onnx.layers import Builder, activation, add, global_average_pool, linear, max_pool
from advconv_onnx.layers.initializers import kaiming_normal, uniform
from advconv_onnx.layers.values import channels_of
from advconv_onnx.networks.blocks import atrous, conv_norm

INPUT_SHAPE = ("N", 3, 224, 224)

_conv_norm = functools.partial(conv_norm, weight=kaiming_normal("fan_out"))


def resnext(
    b: Builder,
    x: ir.Value,
    *,
    depths: Sequence[int] = (3, 4, 6, 3),
    groups: int = 32,
    width_per_group: int = 4,
    classes: int = 1000,
) -> ir.Value:
    """Build a classifier; the defaults are ResNeXt-50 32x4d.

    Args:
        b: where the network goes.
        x: (N, C, H, W), any channels and any size.
        depths: blocks of each stage; (3, 4, 23, 3) makes 101 layers of the 50.
        groups: of the 3x3 convolutions; 1, with ``width_per_group`` 64, is a ResNet.
        width_per_group: channels of each group in the first stage, doubled in every further one.
        classes: how many.

    Returns:
        Logits (N, classes).

    Raises:
        InputError: as ``features``.
    """
    x = features(b, x, depths=depths, groups=groups, width_per_group=width_per_group)
    bias = uniform(1 / math.sqrt(channels_of(x)))
    return linear(b, global_average_pool(b, x), classes, bias=bias, name="fc")


def features(
    b: Builder,
    x: ir.Value,
    *,
    depths: Sequence[int] = (3, 4, 6, 3),
    groups: int = 32,
    width_per_group: int = 4,
    output_stride: int = 32,
) -> ir.Value:
    """Everything before the pooling, in the caller's scope.

    Args:
        b: where the network goes.
        x: (N, C, H, W).
        depths: as in ``resnext``, like the next two.
        groups: of the 3x3 convolutions.
        width_per_group: channels of each group in the first stage.
        output_stride: input pixels per output pixel, 32, 16 or 8. Below 32 the late strides become
            dilations, which keep the resolution (Chen et al. 2017).

    Returns:
        (N, 2048, H / output_stride, W / output_stride), with four stages.

    Raises:
        InputError: a stage without blocks, or a number out of range.
    """
    if not depths or min(depths) < 1:
        raise InputError(f"depths={tuple(depths)}; give each stage at least one block")
    x = _conv_norm(b, x, 64, 7, names=("conv1", "bn1"), strides=2, pads=3, activation="Relu")
    x = max_pool(b, x, 3, strides=2, pads=1)
    steps = atrous([1, *[2] * (len(depths) - 1)], reached=4, output_stride=output_stride)
    for stage, (blocks, (stride, first_rate, rate)) in enumerate(zip(depths, steps, strict=True)):
        for block in range(blocks):
            with b.scope(f"layer{stage + 1}.{block}"):
                x = _bottleneck(
                    b,
                    x,
                    256 << stage,
                    width=groups * width_per_group << stage,
                    groups=groups,
                    stride=1 if block else stride,
                    rate=rate if block else first_rate,
                )
    return x


def _bottleneck(
    b: Builder, x: ir.Value, channels: int, *, width: int, groups: int, stride: int, rate: int
) -> ir.Value:
    y = _conv_norm(b, x, width, 1, names=("conv1", "bn1"), activation="Relu")
    y = _conv_norm(
        b,
        y,
        width,
        names=("conv2", "bn2"),
        group=groups,
        strides=stride,
        pads=rate,
        dilations=rate,
        activation="Relu",
    )
    y = _conv_norm(b, y, channels, 1, names=("conv3", "bn3"))
    if channels_of(x) != channels:
        x = _conv_norm(b, x, channels, 1, names=("downsample.0", "downsample.1"), strides=stride)
    return activation(b, add(b, x, y), "Relu")
