"""MobileNet (Howard et al. 2017): a plain stack of depthwise separable convolutions.

Nothing but the first convolution is dense, and none of the thirteen blocks has a shortcut. Padding
is one pixel on every side, as in torch; TensorFlow's strided layers pad even sizes behind only.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from advconv_onnx.errors import InputError
from advconv_onnx.layers import Builder, conv, depthwise_separable_conv, global_average_pool, linear
from advconv_onnx.layers.finish import Finish

INPUT_SHAPE = ("N", 3, 224, 224)

BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1), (512, 1),
    (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip
"""Channels and stride of each block: table 1 of the paper, whose last "s2" must be a 1."""

_NORM_RELU: Finish = {"batch_norm": True, "activation": "Relu"}


def mobilenet_v1(b: Builder, x: ir.Value, *, classes: int = 1000, width: float = 1.0) -> ir.Value:
    """Build a classifier.

    Weights start by the rule of He et al. (2015): it keeps the variance of activations, so that
    BatchNormalization can start with a variance of 1.

    Args:
        b: where the network goes.
        x: (N, C, H, W), any channels and any size.
        classes: how many.
        width: multiplier of all channels, fractions cut off.

    Returns:
        Logits (N, classes).

    Raises:
        InputError: a width that leaves no channels, or is infinite.
    """
    if not 1 / 32 <= width < math.inf:
        raise InputError(f"width={width}; give a finite multiplier of at least 1/32")
    x = conv(b, x, int(32 * width), strides=2, pads=1, name="stem", **_NORM_RELU)
    for number, (channels, stride) in enumerate(BLOCKS, 1):
        x = depthwise_separable_conv(
            b,
            x,
            int(channels * width),
            strides=stride,
            pads=1,
            between=_NORM_RELU,
            name=f"block{number}",
            **_NORM_RELU,
        )
    return linear(b, global_average_pool(b, x), classes, name="classifier")
