"""MobileNetV2 (Sandler et al. 2018): inverted residuals around depthwise convolutions.

Each block widens with a pointwise convolution, filters every channel on its own, and narrows again
without an activation. Parameters have torchvision's names.
"""

from __future__ import annotations

import functools
import itertools
import math

import onnx_ir as ir

from advconv_onnx.errors import InputError
from advconv_onnx.layers import Builder, add, global_average_pool, linear
from advconv_onnx.layers.initializers import kaiming_normal, normal
from advconv_onnx.layers.values import channels_of
from advconv_onnx.networks.blocks import atrous, conv_norm, round_channels

INPUT_SHAPE = ("N", 3, 224, 224)

STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip
"""Expansion, channels, blocks and first stride of each stage: table 2 of the paper."""

_WEIGHT = kaiming_normal("fan_out")

_conv_norm_relu6 = functools.partial(conv_norm, weight=_WEIGHT, activation="Relu6")


def mobilenet_v2(b: Builder, x: ir.Value, *, classes: int = 1000, width: float = 1.0) -> ir.Value:
    """Build a classifier.

    Args:
        b: where the network goes.
        x: (N, C, H, W), any channels and any size.
        classes: how many.
        width: multiplier of all channels; the last features never get fewer than 1280.

    Returns:
        Logits (N, classes).
    """
    with b.scope("features"):
        x = features(b, x, width=width)
    x = global_average_pool(b, x)
    return linear(b, x, classes, weight=normal(0.01), name="classifier.1")


def features(b: Builder, x: ir.Value, *, width: float = 1.0, output_stride: int = 32) -> ir.Value:
    """Everything before the pooling, in the caller's scope.

    Args:
        b: where it goes.
        x: (N, C, H, W).
        width: multiplier of all channels.
        output_stride: input pixels per output pixel, 32, 16 or 8. Below 32 the late strides become
            dilations, which keep the resolution (Chen et al. 2017).

    Returns:
        (N, 1280 or more, H / output_stride, W / output_stride).

    Raises:
        InputError: a width or stride out of range.
    """
    if not 0 < width < math.inf:
        raise InputError(f"width={width}; give a finite multiplier above 0")
    with b.scope("0"):
        x = _conv_norm_relu6(b, x, round_channels(32 * width), strides=2, pads=1)
    index = 1
    steps = atrous([stride for *_, stride in STAGES], reached=2, output_stride=output_stride)
    for (expansion, channels, blocks, _), (stride, first_rate, rate) in zip(
        STAGES, steps, strict=True
    ):
        for block in range(blocks):
            with b.scope(str(index)):
                x = _inverted_residual(
                    b,
                    x,
                    round_channels(channels * width),
                    expansion=expansion,
                    stride=1 if block else stride,
                    rate=rate if block else first_rate,
                )
            index += 1
    with b.scope(str(index)):
        return _conv_norm_relu6(b, x, round_channels(1280 * max(1.0, width)), 1)


def _inverted_residual(
    b: Builder, x: ir.Value, channels: int, *, expansion: int, stride: int, rate: int
) -> ir.Value:
    inputs, y = channels_of(x), x
    hidden, parts = inputs * expansion, itertools.count()
    with b.scope("conv"):
        if expansion > 1:
            with b.scope(str(next(parts))):
                y = _conv_norm_relu6(b, y, hidden, 1)
        with b.scope(str(next(parts))):
            y = _conv_norm_relu6(
                b, y, hidden, group=hidden, strides=stride, pads=rate, dilations=rate
            )
        names = str(next(parts)), str(next(parts))
        y = conv_norm(b, y, channels, 1, names=names, weight=_WEIGHT)
    return add(b, x, y) if stride == 1 and inputs == channels else y
