"""Convolution: each of C_out kernels slides over the input and makes one output map.

    y[n, m, o] = bias[m] + sum_c,k  weight[m, c, k] * x[n, c, o * stride + k * dilation - pad]

A kernel of a dense convolution sees all input channels. Its relatives restrict that: to a group of
them (``grouped_conv``), to one (``depthwise_conv``), to one pixel (``pointwise_conv``), or to taps
with gaps between them (``dilated_conv``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np
import onnx_ir as ir

from advconv_onnx.costs import ReceptiveField, convolution_costs
from advconv_onnx.errors import InputError
from advconv_onnx.layers.builder import Builder
from advconv_onnx.layers.case import case
from advconv_onnx.layers.definition import Parameters, pad_zeros, slide, space_out
from advconv_onnx.layers.finish import Finish, bias_parameter, finish, finish_reference, has_bias
from advconv_onnx.layers.initializers import Array, Weight
from advconv_onnx.layers.values import batch_of, channels_of, plain, size_of, symbolic
from advconv_onnx.layers.window import Geometry, Window, check_options, per_axis
from advconv_onnx.records import LayerCosts, Shape

DEFAULT_WEIGHT = "kaiming_uniform"


class ConvOptions(Geometry, Finish, total=False):
    """Options that every convolution takes, besides those of ``Geometry`` and ``Finish``.

    Attributes:
        weight: an array, an initializer or the name of one; "kaiming_uniform" by default.
        name: within the builder's scope; numbered by default.
    """

    weight: Weight
    name: str | None


def conv(
    b: Builder,
    x: ir.Value,
    channels: int,
    kernel_shape: int | Sequence[int] = 3,
    *,
    group: int = 1,
    **options: Unpack[ConvOptions],
) -> ir.Value:
    """Convolve in one, two or three dimensions, as many as ``x`` has.

    Args:
        b: where the layer goes.
        x: (N, C_in, *size).
        channels: C_out.
        kernel_shape: taps per axis.
        group: parts that the channels are split into, 1 for a dense convolution.
        **options: ``ConvOptions``.

    Returns:
        (N, C_out, *floor((size + pads - (kernel - 1) * dilation - 1) / stride + 1)). Parameters are
        weight (C_out, C_in / group, *kernel_shape), bias (C_out,) and, with ``batch_norm``,
        norm.weight, norm.bias, norm.running_mean and norm.running_var.

    Raises:
        InputError: the layer is impossible; nothing is added then.
    """
    with b.layer("conv", options.get("name")):
        return convolve(b, x, channels, kernel_shape, group, options)


def convolve(
    b: Builder,
    x: ir.Value,
    channels: int,
    kernel_shape: int | Sequence[int],
    group: int,
    options: ConvOptions,
) -> ir.Value:
    """What all convolutions share: the node and what follows it, in the layer being built."""
    check_options(options, ConvOptions)
    channels, group = check_groups(channels_of(x), channels, group)
    window = Window.of(size_of(x), kernel_shape, options)
    shape = (channels, channels_of(x) // group, *window.kernel_shape)
    weight = b.parameter("weight", shape, options.get("weight", DEFAULT_WEIGHT), x.dtype)
    y = b.node(
        "Conv",
        [x, weight, *bias_parameter(b, channels, options, x.dtype)],
        (batch_of(x), channels, *window.output_size(size_of(x))),
        **window.attributes(size_of(x)),
        group=group,
    )
    return finish(b, y, options)


def check_groups(inputs: int, channels: int, group: int) -> tuple[int, int]:
    """Check that channels split into equal groups; return output channels and groups.

    Raises:
        InputError: one of them is no number from 1 up, or ``group`` does not divide the channels.
    """
    [outputs], [group] = per_axis("channels", channels, 1), per_axis("group", group, 1)
    for name, count in (("input channels", inputs), ("output channels", outputs)):
        if count % group:
            common = (n for n in range(1, inputs + 1) if inputs % n == 0 and outputs % n == 0)
            *others, last = map(str, common)
            use = f"{', '.join(others)} or {last}" if others else last
            raise InputError(f"group={group} does not divide {count} {name}; use {use}")
    return outputs, group


def costs(
    shape: Shape,
    channels: int,
    kernel_shape: int | Sequence[int] = 3,
    *,
    group: int = 1,
    itemsize: int = 4,
    **options: Unpack[ConvOptions],
) -> LayerCosts:
    """Costs on an input of ``shape``: every weight meets every output position once.

    Args:
        shape: (N, C_in, *size); where sizes are symbolic, MACs and bytes are None.
        channels: as in ``conv``, like the rest.
        kernel_shape: taps per axis.
        group: parts that the channels are split into.
        itemsize: bytes per element.
        **options: ``ConvOptions``; only geometry and bias matter.

    Raises:
        InputError: the layer is impossible.
    """
    inputs = shape[1]
    assert isinstance(inputs, int)
    channels, group = check_groups(inputs, channels, group)
    size = symbolic(shape[2:])
    window = Window.of(size, kernel_shape, options)
    return LayerCosts(
        convolution_costs(
            shape,
            (channels, inputs // group, *window.kernel_shape),
            (shape[0], channels, *plain(window.output_size(size))),
            bias=channels if has_bias(options) else 0,
            itemsizes=(itemsize,) * 3,
        ),
        window.extent,
        tuple(ReceptiveField().through(extent).size for extent in window.extent),
    )


def reference(
    x: Array,
    parameters: Parameters,
    channels: int,
    kernel_shape: int | Sequence[int] = 3,
    *,
    group: int = 1,
    **options: Unpack[ConvOptions],
) -> Array:
    """The definition: split into groups, pad, space the taps, slide, concatenate.

    Args:
        x: (N, C_in, *size).
        parameters: weight and the others, as ``conv`` names them.
        channels: as in ``conv``, like the rest.
        kernel_shape: taps per axis.
        group: parts that the channels are split into.
        **options: ``ConvOptions``.
    """
    window = Window.of(x.shape[2:], kernel_shape, options)
    padded = pad_zeros(x.astype(np.float64), window.padding(x.shape[2:]))
    kernels = space_out(parameters["weight"].astype(np.float64), window.dilations)
    maps = [
        slide(part, own, window.strides)
        for part, own in zip(np.split(padded, group, axis=1), np.split(kernels, group), strict=True)
    ]
    return finish_reference(np.concatenate(maps, axis=1), parameters, options)


CASES = (
    case(2, 3, 7, 9, channels=4),
    case(1, 4, 11, channels=6, kernel_shape=5, strides=2, pads=2, activation="Relu"),
    case(1, 2, 5, 6, 4, channels=3, kernel_shape=(3, 1, 2), pads=(1, 0, 0, 0, 0, 1)),
    case(2, 4, 9, 8, channels=6, strides=(2, 1), auto_pad="SAME_UPPER", bias=False),
    case(1, 4, 9, 8, channels=6, kernel_shape=4, auto_pad="SAME_LOWER", activation="Tanh"),
    case(1, 4, 9, 8, channels=8, group=2, dilations=(2, 1), auto_pad="VALID"),
    case(1, 3, 6, 6, channels=5, batch_norm=True, activation="HardSwish", weight="xavier_normal"),
)
