"""DCGAN's generator (Radford et al. 2015): transposed convolutions draw an image from noise.

The first makes 4x4 pixels of a vector, each further one twice the size and half the channels.
Parameters have the names of PyTorch's DCGAN example.
"""

from __future__ import annotations

import functools

import onnx_ir as ir

from advconv_onnx.errors import InputError
from advconv_onnx.layers import Builder, activation, batch_norm, conv_transpose
from advconv_onnx.layers.initializers import constant, normal
from advconv_onnx.layers.values import channels_of
from advconv_onnx.layers.window import Geometry

INPUT_SHAPE = ("N", 100, 1, 1)

_STD = 0.02

_conv_transpose = functools.partial(conv_transpose, kernel_shape=4, bias=False, weight=normal(_STD))


def dcgan(
    b: Builder, x: ir.Value, *, size: int = 64, base: int = 64, channels: int = 3
) -> ir.Value:
    """Build a generator.

    Args:
        b: where the network goes.
        x: (N, any length, 1, 1), drawn from a normal distribution.
        size: pixels per axis of the image, a power of two from 8 up.
        base: channels before the last convolution; every earlier one has twice as many.
        channels: of the image.

    Returns:
        Images (N, channels, size, size) of values between -1 and 1.

    Raises:
        InputError: another size, or a number below 1.
    """
    if size < 8 or size.bit_count() > 1:
        raise InputError(f"size={size}; use a power of two from 8 up")
    doublings = size.bit_length() - 3
    with b.scope("main"):
        for index in range(doublings):
            geometry: Geometry = {"strides": 2, "pads": 1} if index else {}
            # The variance training would have measured: see ``blocks.conv_norm``. A pixel gets one
            # tap of the first kernel, and four of the others.
            variance = channels_of(x) * (4 if index else 1) * _STD**2
            width = base << doublings - 1 - index
            x = _conv_transpose(b, x, width, **geometry, name=f"{3 * index}")
            x = batch_norm(
                b,
                x,
                weight=normal(_STD, mean=1.0),
                running_var=constant(variance),
                name=f"{3 * index + 1}",
            )
            x = activation(b, x, "Relu")
        return _conv_transpose(
            b, x, channels, strides=2, pads=1, activation="Tanh", name=f"{3 * doublings}"
        )
