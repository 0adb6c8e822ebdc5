"""Pooling: the largest value under a window, or the mean of a whole image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import onnx_ir as ir

from advconv_onnx.errors import InputError
from advconv_onnx.layers.builder import Builder
from advconv_onnx.layers.values import batch_of, channels_of, size_of
from advconv_onnx.layers.window import Geometry, Window, check_options


def max_pool(
    b: Builder,
    x: ir.Value,
    kernel_shape: int | Sequence[int],
    *,
    name: str | None = None,
    **geometry: Unpack[Geometry],
) -> ir.Value:
    """Take the largest value under the window; padding never wins.

    Args:
        b: where the layer goes.
        x: (N, C, *size).
        kernel_shape: of the window.
        name: within the scope.
        **geometry: ``Geometry``; strides are 1 by default, as in ONNX.

    Raises:
        InputError: the geometry is impossible, or a window may lie in the padding alone.
    """
    with b.layer("max_pool", name):
        check_options(geometry, Geometry)
        window = Window.of(size_of(x), kernel_shape, geometry)
        rank = len(window.kernel_shape)
        if any(pad >= extent for pad, extent in zip(window.pads, window.extent * 2, strict=True)):
            raise InputError(
                f"pads={window.pads} hold a whole window of {window.extent[:rank]}; pad less"
            )
        return b.node(
            "MaxPool",
            [x],
            (batch_of(x), channels_of(x), *window.output_size(size_of(x))),
            **window.attributes(size_of(x)),
        )


def global_average_pool(b: Builder, x: ir.Value, *, name: str | None = None) -> ir.Value:
    """Take the mean of each channel: (N, C, 1, ...)."""
    with b.layer("global_average_pool", name):
        shape = (batch_of(x), channels_of(x), *[1] * len(size_of(x)))
        return b.node("GlobalAveragePool", [x], shape)
