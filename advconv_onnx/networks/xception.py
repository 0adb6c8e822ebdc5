"""Xception (Chollet 2017): depthwise separable convolutions with residual branches.

An entry flow narrows the image, a middle flow keeps its size, an exit flow widens the channels.
Parameters have the names of the author's code in Keras, with dots for its underscores:
"block2.sepconv1_bn.weight" is the gamma of its block2_sepconv1_bn.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from advconv_onnx.errors import InputError
from advconv_onnx.layers import (
    Builder,
    activation,
    add,
    batch_norm,
    depthwise_separable_conv,
    global_average_pool,
    linear,
    max_pool,
)
from advconv_onnx.layers.initializers import kaiming_uniform
from advconv_onnx.networks.blocks import conv_norm

INPUT_SHAPE = ("N", 3, 299, 299)

ENTRY = ((128, 128), (256, 256), (728, 728))
MIDDLE = (728, 728, 728)
EXIT = (728, 1024)
"""Channels of the separable convolutions of each block: figure 5 of the paper."""

_EPSILON = 1e-3
"""Of all BatchNormalizations: Keras's default."""


def xception(b: Builder, x: ir.Value, *, middle_blocks: int = 8, classes: int = 1000) -> ir.Value:
    """Build a classifier.

    Weights start by the rule of He et al. (2015): it keeps the variance of activations, so that
    BatchNormalization can start with a variance of 1.

    Args:
        b: where the network goes.
        x: (N, C, H, W), any channels, at least 7 pixels high and wide.
        middle_blocks: of the middle flow.
        classes: how many.

    Returns:
        Logits (N, classes).

    Raises:
        InputError: an input that is too small, or a negative number of blocks.
    """
    if middle_blocks < 0:
        raise InputError(f"middle_blocks={middle_blocks}; give 0 or more")
    with b.scope("block1"):
        for name, channels, stride in (("conv1", 32, 2), ("conv2", 64, 1)):
            names = name, f"{name}_bn"
            x = conv_norm(
                b, x, channels, names=names, strides=stride, activation="Relu", epsilon=_EPSILON
            )
    blocks = [*ENTRY, *[MIDDLE] * middle_blocks, EXIT]
    for number, widths in enumerate(blocks, 2):
        with b.scope(f"block{number}"):
            x = _residual(b, x, widths, shrink=widths != MIDDLE, activated=number == 2)
    with b.scope(f"block{len(blocks) + 2}"):
        for index, channels in enumerate((1536, 2048), 1):
            x = activation(b, _separable(b, x, channels, f"sepconv{index}"), "Relu")
    return linear(
        b, global_average_pool(b, x), classes, weight="xavier_uniform", name="predictions"
    )


def _residual(
    b: Builder, x: ir.Value, widths: Sequence[int], *, shrink: bool, activated: bool
) -> ir.Value:
    """Separable convolutions, each behind a Relu, and their input added.

    Args:
        b: where the block goes.
        x: (N, C, H, W).
        widths: channels of the separable convolutions.
        shrink: halve the size, in the shortcut with a strided convolution.
        activated: ``x`` comes out of a Relu already.
    """
    y = x
    for index, channels in enumerate(widths, 1):
        if not (activated and index == 1):
            y = activation(b, y, "Relu")
        y = _separable(b, y, channels, f"sepconv{index}")
    if shrink:
        y = max_pool(b, y, 3, strides=2, auto_pad="SAME_UPPER")
        names = "residual", "residual_bn"
        x = conv_norm(b, x, widths[-1], 1, names=names, strides=2, epsilon=_EPSILON)
    return add(b, y, x)


def _separable(b: Builder, x: ir.Value, channels: int, name: str) -> ir.Value:
    # No activation follows the depthwise part, so its variance needs no doubling.
    x = depthwise_separable_conv(
        b, x, channels, pads=1, bias=False, depthwise_weight=kaiming_uniform(a=1), name=name
    )
    return batch_norm(b, x, epsilon=_EPSILON, name=f"{name}_bn")
