"""Upsampling, then a convolution: the other way to enlarge with learned weights.

    y = conv(upsample(x))

Unlike a transposed convolution whose kernel is no multiple of its stride, it treats all output
pixels alike, which avoids checkerboard patterns (Odena et al. 2016), but it multiplies at the large
size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Unpack

import onnx_ir as ir

from advconv_onnx.layers.builder import Builder
from advconv_onnx.layers.case import case
from advconv_onnx.layers.conv import ConvOptions, convolve
from advconv_onnx.layers.conv import costs as conv_costs
from advconv_onnx.layers.conv import reference as conv_reference
from advconv_onnx.layers.definition import Parameters
from advconv_onnx.layers.initializers import Array
from advconv_onnx.layers.upsample import Scale, Target, upsample
from advconv_onnx.layers.upsample import reference as upsample_reference
from advconv_onnx.layers.values import plain, symbolic
from advconv_onnx.layers.window import Window
from advconv_onnx.records import LayerCosts, Shape


def upsample_conv(
    b: Builder,
    x: ir.Value,
    channels: int,
    kernel_shape: int | Sequence[int] = 3,
    *,
    scale: Scale | None = None,
    size: int | Sequence[int] | None = None,
    mode: str = "nearest",
    align_corners: bool = False,
    group: int = 1,
    **options: Unpack[ConvOptions],
) -> ir.Value:
    """Enlarge, then convolve.

    Args:
        b: where the layer goes.
        x: (N, C_in, *size).
        channels: C_out.
        kernel_shape: taps per axis.
        scale: as in ``upsample``, like the next three; 2 where there is no ``size`` either.
        size: the size between upsampling and convolution.
        mode: nearest, linear or cubic.
        align_corners: whether the corner pixels keep their values, for linear and cubic.
        group: parts that the channels are split into.
        **options: ``ConvOptions``, of the convolution.

    Returns:
        (N, C_out, *new size as in ``conv``), with the parameters of ``conv``.

    Raises:
        InputError: the layer is impossible; nothing is added then.
    """
    with b.layer("upsample_conv", options.get("name")):
        large = upsample(
            b,
            x,
            scale=_scale(scale, size),
            size=size,
            mode=mode,
            align_corners=align_corners,
            name="upsample",
        )
        return convolve(b, large, channels, kernel_shape, group, options)


def _scale(scale: Scale | None, size: int | Sequence[int] | None) -> Scale | None:
    return 2 if scale is None and size is None else scale


def costs(
    shape: Shape,
    channels: int,
    kernel_shape: int | Sequence[int] = 3,
    *,
    scale: Scale | None = None,
    size: int | Sequence[int] | None = None,
    mode: str = "nearest",
    align_corners: bool = False,
    group: int = 1,
    itemsize: int = 4,
    **options: Unpack[ConvOptions],
) -> LayerCosts:
    """Costs on an input of ``shape``, (N, C_in, *size): the convolution's at the large size."""
    target = Target.of(symbolic(shape[2:]), _scale(scale, size), size)
    large = (*shape[:2], *plain(target.size))
    window = Window.of(target.size, kernel_shape, options)
    own = conv_costs(large, channels, kernel_shape, group=group, itemsize=itemsize, **options)
    return dataclasses.replace(
        own,
        receptive_field=tuple(
            field.through(extent).size
            for field, extent in zip(target.fields(mode), window.extent, strict=True)
        ),
    )


def reference(
    x: Array,
    parameters: Parameters,
    channels: int,
    kernel_shape: int | Sequence[int] = 3,
    *,
    scale: Scale | None = None,
    size: int | Sequence[int] | None = None,
    mode: str = "nearest",
    align_corners: bool = False,
    group: int = 1,
    **options: Unpack[ConvOptions],
) -> Array:
    """The definition: one after the other."""
    large = upsample_reference(
        x, {}, scale=_scale(scale, size), size=size, mode=mode, align_corners=align_corners
    )
    return conv_reference(large, parameters, channels, kernel_shape, group=group, **options)


CASES = (
    case(2, 3, 4, 5, channels=4, pads=1),
    case(1, 4, 6, channels=3, kernel_shape=5, scale=3, auto_pad="SAME_UPPER", activation="Relu"),
    case(1, 2, 2, 3, 2, channels=3, kernel_shape=(3, 1, 2), scale=(2, 1, 3), bias=False),
    case(1, 4, 4, 4, channels=6, scale=2, mode="linear", group=2, pads=1, batch_norm=True),
    case(1, 2, 5, 4, channels=2, size=(8, 9), mode="cubic", dilations=2, activation="Relu"),
)
