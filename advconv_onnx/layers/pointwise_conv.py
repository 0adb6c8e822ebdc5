"""Pointwise convolution: 1x1 kernels, a matrix over the channels applied at every pixel.

    y[n, m, o] = bias[m] + sum_c  weight[m, c] * x[n, c, o * stride]

It mixes channels and never pixels, so it is what changes the channel count cheaply.
"""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import onnx_ir as ir

from advconv_onnx.layers.builder import Builder
from advconv_onnx.layers.case import case
from advconv_onnx.layers.conv import ConvOptions, convolve
from advconv_onnx.layers.conv import costs as conv_costs
from advconv_onnx.layers.definition import Parameters, pad_zeros
from advconv_onnx.layers.finish import finish_reference
from advconv_onnx.layers.initializers import Array
from advconv_onnx.layers.window import Window
from advconv_onnx.records import LayerCosts, Shape


def pointwise_conv(
    b: Builder, x: ir.Value, channels: int, *, group: int = 1, **options: Unpack[ConvOptions]
) -> ir.Value:
    """Mix the channels of each pixel.

    Args:
        b: where the layer goes.
        x: (N, C_in, *size).
        channels: C_out.
        group: parts that the channels are split into.
        **options: ``ConvOptions``.

    Returns:
        (N, C_out, *size), every ``strides``-th pixel; the weight is (C_out, C_in / group, 1, ...).

    Raises:
        InputError: the layer is impossible; nothing is added then.
    """
    with b.layer("pointwise_conv", options.get("name")):
        return convolve(b, x, channels, 1, group, options)


def costs(
    shape: Shape,
    channels: int,
    *,
    group: int = 1,
    itemsize: int = 4,
    **options: Unpack[ConvOptions],
) -> LayerCosts:
    """Costs on an input of ``shape``, (N, C_in, *size): those of a kernel with one tap."""
    return conv_costs(shape, channels, 1, group=group, itemsize=itemsize, **options)


def reference(
    x: Array,
    parameters: Parameters,
    channels: int,
    *,
    group: int = 1,
    **options: Unpack[ConvOptions],
) -> Array:
    """The definition: at each pixel a matrix times the vector of its channels, group by group."""
    window = Window.of(x.shape[2:], 1, options)
    padded = pad_zeros(x.astype(np.float64), window.padding(x.shape[2:]))
    every: list[Any] = [slice(None, None, stride) for stride in window.strides]
    picked = padded[(..., *every)]
    matrices = parameters["weight"].astype(np.float64).reshape(channels, -1)
    maps = [
        np.einsum("mc,nc...->nm...", matrix, part)
        for matrix, part in zip(
            np.split(matrices, group), np.split(picked, group, axis=1), strict=True
        )
    ]
    return finish_reference(np.concatenate(maps, axis=1), parameters, options)


CASES = (
    case(2, 3, 5, 7, channels=4),
    case(1, 4, 10, channels=6, strides=3, activation="LeakyRelu"),
    case(1, 4, 3, 4, 5, channels=2, group=2, bias=False),
    case(1, 4, 6, 6, channels=4, pads=1, batch_norm=True, activation="Sigmoid"),
)
