"""Depthwise convolution: one kernel of one channel's depth per input channel (or a few of them).

    y[n, c * multiplier + j, o] = sum_k  weight[c * multiplier + j, 0, k] * x[n, c, ...]

It mixes pixels and never channels. Compared with a dense convolution of as many channels it has
1 / C_in of the weights and multiplications.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np
import onnx_ir as ir

from advconv_onnx.layers.builder import Builder
from advconv_onnx.layers.case import case
from advconv_onnx.layers.conv import ConvOptions, convolve
from advconv_onnx.layers.conv import costs as conv_costs
from advconv_onnx.layers.definition import Parameters, pad_zeros, slide, space_out
from advconv_onnx.layers.finish import finish_reference
from advconv_onnx.layers.initializers import Array
from advconv_onnx.layers.values import channels_of
from advconv_onnx.layers.window import Window, per_axis
from advconv_onnx.records import LayerCosts, Shape


def depthwise_conv(
    b: Builder,
    x: ir.Value,
    kernel_shape: int | Sequence[int] = 3,
    *,
    multiplier: int = 1,
    **options: Unpack[ConvOptions],
) -> ir.Value:
    """Convolve each channel with kernels of its own.

    Args:
        b: where the layer goes.
        x: (N, C, *size).
        kernel_shape: taps per axis.
        multiplier: kernels per channel.
        **options: ``ConvOptions``.

    Returns:
        (N, C * multiplier, *size as in ``conv``); the weight is (C * multiplier, 1, *kernel_shape).

    Raises:
        InputError: the layer is impossible; nothing is added then.
    """
    with b.layer("depthwise_conv", options.get("name")):
        [multiplier] = per_axis("multiplier", multiplier, 1)
        channels = channels_of(x)
        return convolve(b, x, channels * multiplier, kernel_shape, channels, options)


def costs(
    shape: Shape,
    kernel_shape: int | Sequence[int] = 3,
    *,
    multiplier: int = 1,
    itemsize: int = 4,
    **options: Unpack[ConvOptions],
) -> LayerCosts:
    """Costs on an input of ``shape``, (N, C, *size): those of as many groups as channels."""
    [multiplier] = per_axis("multiplier", multiplier, 1)
    channels = shape[1]
    assert isinstance(channels, int)
    return conv_costs(
        shape, channels * multiplier, kernel_shape, group=channels, itemsize=itemsize, **options
    )


def reference(
    x: Array,
    parameters: Parameters,
    kernel_shape: int | Sequence[int] = 3,
    *,
    multiplier: int = 1,
    **options: Unpack[ConvOptions],
) -> Array:
    """The definition: take the channels one at a time, each with its own kernels."""
    window = Window.of(x.shape[2:], kernel_shape, options)
    padded = pad_zeros(x.astype(np.float64), window.padding(x.shape[2:]))
    kernels = space_out(parameters["weight"].astype(np.float64), window.dilations)
    maps = []
    for channel in range(x.shape[1]):
        own = kernels[channel * multiplier : (channel + 1) * multiplier]
        maps.append(slide(padded[:, channel : channel + 1], own, window.strides))
    return finish_reference(np.concatenate(maps, axis=1), parameters, options)


CASES = (
    case(2, 4, 7, 9, pads=1),
    case(1, 3, 12, kernel_shape=5, strides=2, auto_pad="SAME_UPPER", activation="Relu6"),
    case(1, 2, 5, 6, 4, kernel_shape=(3, 2, 1), multiplier=2),
    case(1, 3, 9, 9, multiplier=3, dilations=2, pads=(0, 1, 2, 3), bias=False),
    case(2, 1, 6, 6, pads=1, batch_norm=True, activation="SiLU"),
)
