"""Depthwise separable convolution: a depthwise convolution, then a pointwise one.

    y = pointwise(depthwise(x))

The first mixes pixels, the second channels; a dense convolution does both at once. Together they
take 1 / C_out + 1 / taps of its multiplications (for 3x3 and many channels, about one ninth).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Unpack, cast

import onnx_ir as ir

from advconv_onnx.costs import add_costs
from advconv_onnx.layers.builder import Builder
from advconv_onnx.layers.case import case
from advconv_onnx.layers.conv import ConvOptions
from advconv_onnx.layers.definition import Parameters, within
from advconv_onnx.layers.depthwise_conv import costs as depthwise_costs
from advconv_onnx.layers.depthwise_conv import depthwise_conv
from advconv_onnx.layers.depthwise_conv import reference as depthwise_reference
from advconv_onnx.layers.finish import Finish, finish_of
from advconv_onnx.layers.initializers import Array, Weight
from advconv_onnx.layers.pointwise_conv import costs as pointwise_costs
from advconv_onnx.layers.pointwise_conv import pointwise_conv
from advconv_onnx.layers.pointwise_conv import reference as pointwise_reference
from advconv_onnx.layers.values import plain, symbolic
from advconv_onnx.layers.window import Geometry, Window, check_options, geometry_of
from advconv_onnx.records import LayerCosts, Shape


class SeparableOptions(Geometry, Finish, total=False):
    """Options: ``Geometry`` is the depthwise part's, ``Finish`` follows the pointwise part.

    Attributes:
        between: what follows the depthwise part, by default nothing, not even a bias.
        depthwise_weight: an array, an initializer or the name of one; "kaiming_uniform" by default.
        pointwise_weight: likewise.
        name: within the builder's scope; numbered by default.
    """

    between: Finish
    depthwise_weight: Weight
    pointwise_weight: Weight
    name: str | None


def depthwise_separable_conv(
    b: Builder,
    x: ir.Value,
    channels: int,
    kernel_shape: int | Sequence[int] = 3,
    *,
    multiplier: int = 1,
    **options: Unpack[SeparableOptions],
) -> ir.Value:
    """Convolve each channel on its own, then mix the channels of each pixel.

    Args:
        b: where the layer goes.
        x: (N, C_in, *size).
        channels: C_out.
        kernel_shape: taps per axis of the depthwise part.
        multiplier: kernels per channel of the depthwise part.
        **options: ``SeparableOptions``.

    Returns:
        (N, C_out, *size as in ``conv``). Parameters are those of the two parts, depthwise.weight
        (C_in * multiplier, 1, *kernel_shape), pointwise.weight (C_out, C_in * multiplier, 1, ...)
        and so on.

    Raises:
        InputError: the layer is impossible; nothing is added then.
    """
    with b.layer("depthwise_separable_conv", options.get("name")):
        check_options(options, SeparableOptions)
        depthwise, pointwise = _parts(options)
        x = depthwise_conv(b, x, kernel_shape, multiplier=multiplier, **depthwise)
        return pointwise_conv(b, x, channels, **pointwise)


def _parts(options: SeparableOptions) -> tuple[ConvOptions, ConvOptions]:
    """The options of the depthwise and of the pointwise part."""
    between = options["between"] if "between" in options else Finish(bias=False)
    depthwise = cast(ConvOptions, {**geometry_of(options), **between, "name": "depthwise"})
    pointwise = cast(ConvOptions, {**finish_of(options), "name": "pointwise"})
    if "depthwise_weight" in options:
        depthwise["weight"] = options["depthwise_weight"]
    if "pointwise_weight" in options:
        pointwise["weight"] = options["pointwise_weight"]
    return depthwise, pointwise


def costs(
    shape: Shape,
    channels: int,
    kernel_shape: int | Sequence[int] = 3,
    *,
    multiplier: int = 1,
    itemsize: int = 4,
    **options: Unpack[SeparableOptions],
) -> LayerCosts:
    """Costs on an input of ``shape``, (N, C_in, *size): the sum of both parts."""
    depthwise, pointwise = _parts(options)
    inputs, size = shape[1], symbolic(shape[2:])
    assert isinstance(inputs, int)
    first = depthwise_costs(
        shape, kernel_shape, multiplier=multiplier, itemsize=itemsize, **depthwise
    )
    between = plain(Window.of(size, kernel_shape, depthwise).output_size(size))
    second = pointwise_costs(
        (shape[0], inputs * multiplier, *between), channels, itemsize=itemsize, **pointwise
    )
    return dataclasses.replace(first, costs=add_costs(first.costs, second.costs))


def reference(
    x: Array,
    parameters: Parameters,
    channels: int,
    kernel_shape: int | Sequence[int] = 3,
    *,
    multiplier: int = 1,
    **options: Unpack[SeparableOptions],
) -> Array:
    """The definition: one after the other."""
    depthwise, pointwise = _parts(options)
    x = depthwise_reference(
        x, within("depthwise", parameters), kernel_shape, multiplier=multiplier, **depthwise
    )
    return pointwise_reference(x, within("pointwise", parameters), channels, **pointwise)


_NORM_RELU: Finish = {"batch_norm": True, "activation": "Relu"}

CASES = (
    case(2, 4, 7, 9, channels=6, pads=1),
    case(1, 3, 12, channels=5, kernel_shape=5, strides=2, pads=2, activation="HardSwish"),
    case(1, 2, 4, 5, 6, channels=3, kernel_shape=(2, 3, 1), multiplier=2, bias=False),
    case(1, 4, 8, 8, channels=6, dilations=2, auto_pad="SAME_UPPER", between=_NORM_RELU),
    case(1, 4, 6, 6, channels=4, pads=1, between=_NORM_RELU, batch_norm=True, activation="Relu"),
)
