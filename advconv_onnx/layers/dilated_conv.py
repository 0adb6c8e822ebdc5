"""Dilated (atrous) convolution: rate - 1 gaps between neighbouring taps.

    y[n, m, o] = sum_c,k  weight[m, c, k] * x[n, c, o * stride + k * rate - pad]

A 3x3 kernel at rate 2 covers 5x5 pixels with 9 weights instead of 25; rate 1 has no gaps. Stacked
with growing rates, the receptive field grows exponentially while the resolution stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import onnx_ir as ir

from advconv_onnx.errors import InputError
from advconv_onnx.layers.builder import Builder
from advconv_onnx.layers.case import case
from advconv_onnx.layers.conv import ConvOptions, convolve
from advconv_onnx.layers.conv import costs as conv_costs
from advconv_onnx.layers.conv import reference as conv_reference
from advconv_onnx.layers.definition import Parameters, space_out
from advconv_onnx.layers.initializers import Array
from advconv_onnx.layers.window import per_axis
from advconv_onnx.records import LayerCosts, Shape


def dilated_conv(
    b: Builder,
    x: ir.Value,
    channels: int,
    kernel_shape: int | Sequence[int] = 3,
    *,
    rate: int | Sequence[int] = 2,
    group: int = 1,
    **options: Unpack[ConvOptions],
) -> ir.Value:
    """Convolve with gaps between the taps.

    Args:
        b: where the layer goes.
        x: (N, C_in, *size).
        channels: C_out.
        kernel_shape: taps per axis.
        rate: distance of neighbouring taps, the ``dilations`` of the node.
        group: parts that the channels are split into.
        **options: ``ConvOptions`` without ``dilations``. With ``pads`` of rate * (kernel - 1) / 2
            the size stays.

    Returns:
        (N, C_out, *size as in ``conv``); the weight is that of ``conv``.

    Raises:
        InputError: the layer is impossible; nothing is added then.
    """
    with b.layer("dilated_conv", options.get("name")):
        return convolve(b, x, channels, kernel_shape, group, at_rate(rate, options))


def at_rate(rate: int | Sequence[int], options: ConvOptions) -> ConvOptions:
    """The options of an ordinary convolution with these gaps.

    Raises:
        InputError: ``dilations`` are given too.
    """
    if "dilations" in options:
        raise InputError(f"dilations={options['dilations']} and rate={rate}: give the rate only")
    return {**options, "dilations": rate}


def costs(
    shape: Shape,
    channels: int,
    kernel_shape: int | Sequence[int] = 3,
    *,
    rate: int | Sequence[int] = 2,
    group: int = 1,
    itemsize: int = 4,
    **options: Unpack[ConvOptions],
) -> LayerCosts:
    """Costs on an input of ``shape``, (N, C_in, *size): gaps widen the field and cost nothing."""
    return conv_costs(
        shape, channels, kernel_shape, group=group, itemsize=itemsize, **at_rate(rate, options)
    )


def reference(
    x: Array,
    parameters: Parameters,
    channels: int,
    kernel_shape: int | Sequence[int] = 3,
    *,
    rate: int | Sequence[int] = 2,
    group: int = 1,
    **options: Unpack[ConvOptions],
) -> Array:
    """The definition: put zeros between the taps, then convolve with the large kernel."""
    spaced = space_out(parameters["weight"], per_axis("rate", rate, x.ndim - 2))
    large = {**parameters, "weight": spaced}
    return conv_reference(x, large, channels, spaced.shape[2:], group=group, **options)


CASES = (
    case(2, 3, 9, 8, channels=4),
    case(1, 2, 20, channels=3, kernel_shape=4, rate=3, pads=4, activation="Relu"),
    case(1, 2, 7, 6, 5, channels=2, rate=(3, 1, 2), pads=(3, 1, 2)),
    case(1, 4, 9, 9, channels=4, group=2, rate=4, auto_pad="SAME_LOWER", bias=False),
    case(1, 2, 6, 6, channels=3, rate=1, batch_norm=True),
)
