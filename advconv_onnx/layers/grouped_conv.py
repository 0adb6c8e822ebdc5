"""Grouped convolution: the channels in equal groups, each with kernels of its own.

    y = concat over g of  conv(x_g, weight_g)        x_g, weight_g: the g-th part of the channels

Four channels in two groups with four kernels each make eight maps. Weights and multiplications fall
by the number of groups; channels of different groups do not meet.
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
from advconv_onnx.layers.conv import reference as conv_reference
from advconv_onnx.layers.definition import Parameters
from advconv_onnx.layers.finish import finish_reference
from advconv_onnx.layers.initializers import Array
from advconv_onnx.layers.window import geometry_of
from advconv_onnx.records import LayerCosts, Shape


def grouped_conv(
    b: Builder,
    x: ir.Value,
    channels: int,
    kernel_shape: int | Sequence[int] = 3,
    *,
    group: int,
    **options: Unpack[ConvOptions],
) -> ir.Value:
    """Convolve each group of channels on its own.

    Args:
        b: where the layer goes.
        x: (N, C_in, *size).
        channels: C_out, those of all groups together.
        kernel_shape: taps per axis.
        group: how many groups; it divides C_in and C_out.
        **options: ``ConvOptions``.

    Returns:
        (N, C_out, *size as in ``conv``); the weight is (C_out, C_in / group, *kernel_shape).

    Raises:
        InputError: the layer is impossible; nothing is added then.
    """
    with b.layer("grouped_conv", options.get("name")):
        return convolve(b, x, channels, kernel_shape, group, options)


def costs(
    shape: Shape,
    channels: int,
    kernel_shape: int | Sequence[int] = 3,
    *,
    group: int,
    itemsize: int = 4,
    **options: Unpack[ConvOptions],
) -> LayerCosts:
    """Costs on an input of ``shape``, (N, C_in, *size): the dense ones divided by ``group``."""
    return conv_costs(shape, channels, kernel_shape, group=group, itemsize=itemsize, **options)


def reference(
    x: Array,
    parameters: Parameters,
    channels: int,
    kernel_shape: int | Sequence[int] = 3,
    *,
    group: int,
    **options: Unpack[ConvOptions],
) -> Array:
    """The definition: split the channels, convolve each part densely, concatenate the maps."""
    maps = [
        conv_reference(part, {"weight": own}, len(own), kernel_shape, **geometry_of(options))
        for part, own in zip(
            np.split(x, group, axis=1), np.split(parameters["weight"], group), strict=True
        )
    ]
    return finish_reference(np.concatenate(maps, axis=1), parameters, options)


CASES = (
    case(2, 4, 6, 7, channels=8, group=2),
    case(1, 6, 12, channels=9, kernel_shape=5, group=3, strides=2, pads=2, activation="SiLU"),
    case(1, 4, 4, 5, 6, channels=4, kernel_shape=2, group=2, bias=False),
    case(1, 4, 5, 5, channels=4, group=4, pads=1),
    case(1, 6, 5, 5, channels=2, group=1, pads=1, batch_norm=True),
)
