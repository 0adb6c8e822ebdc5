"""Transposed convolution: zeros between the pixels, then an ordinary convolution.

    y[n, m, i * stride + k * dilation - pad] += weight[c, m, k] * x[n, c, i]

Every pixel stamps the whole kernel into the output, ``stride`` apart. Seen from the output that is
a convolution with the flipped kernel over an image with ``stride - 1`` zeros between its pixels and
a border of zeros around it. It is the gradient of a convolution, and undoes its change of size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import onnx_ir as ir

from advconv_onnx.costs import ReceptiveField, convolution_costs
from advconv_onnx.errors import InputError
from advconv_onnx.layers.builder import Builder
from advconv_onnx.layers.case import case
from advconv_onnx.layers.conv import DEFAULT_WEIGHT, ConvOptions, check_groups
from advconv_onnx.layers.definition import Parameters, pad_zeros, slide, space_out
from advconv_onnx.layers.finish import bias_parameter, finish, finish_reference, has_bias
from advconv_onnx.layers.initializers import Array
from advconv_onnx.layers.values import batch_of, channels_of, plain, size_of, symbolic
from advconv_onnx.layers.window import Geometry, Window, check_options, per_axis
from advconv_onnx.records import LayerCosts, Shape


def conv_transpose(
    b: Builder,
    x: ir.Value,
    channels: int,
    kernel_shape: int | Sequence[int] = 3,
    *,
    group: int = 1,
    output_padding: int | Sequence[int] = 0,
    **options: Unpack[ConvOptions],
) -> ir.Value:
    """Enlarge by ``strides`` with learned kernels, in as many dimensions as ``x`` has.

    Args:
        b: where the layer goes.
        x: (N, C_in, *size).
        channels: C_out.
        kernel_shape: taps per axis.
        group: parts that the channels are split into.
        output_padding: pixels more at the end of each axis; it tells apart the sizes that a
            convolution of this stride makes equal.
        **options: ``ConvOptions``. ``pads`` crop the output; ``auto_pad`` SAME crops it to
            size * stride.

    Returns:
        (N, C_out, *((size - 1) * stride + (kernel - 1) * dilation + 1 - pads + output_padding)).
        Parameters are those of ``conv``, but weight is (C_in, C_out / group, *kernel_shape).

    Raises:
        InputError: the layer is impossible; nothing is added then.
    """
    with b.layer("conv_transpose", options.get("name")):
        check_options(options, ConvOptions)
        inputs = channels_of(x)
        channels, group = check_groups(inputs, channels, group)
        stamp = _Stamp.of(size_of(x), kernel_shape, output_padding, options)
        shape = (inputs, channels // group, *stamp.window.kernel_shape)
        weight = b.parameter("weight", shape, options.get("weight", DEFAULT_WEIGHT), x.dtype)
        y = b.node(
            "ConvTranspose",
            [x, weight, *bias_parameter(b, channels, options, x.dtype)],
            (batch_of(x), channels, *stamp.output_size(size_of(x))),
            **stamp.attributes(),
            group=group,
        )
        return finish(b, y, options)


@dataclasses.dataclass(frozen=True, slots=True)
class _Stamp:
    """A checked geometry: what each pixel stamps into the output, and what is cropped from it.

    ``crops`` has a pair per axis, ``auto_pad`` resolved: unlike those of a convolution they do not
    depend on the size.
    """

    window: Window
    crops: tuple[tuple[int, int], ...]
    output_padding: tuple[int, ...]

    @classmethod
    def of(
        cls,
        size: Sequence[Any],
        kernel_shape: int | Sequence[int],
        output_padding: int | Sequence[int],
        options: Geometry,
    ) -> _Stamp:
        rank = len(size)
        # Any kernel fits: it does not slide within the input.
        window = Window.of((None,) * rank, kernel_shape, options)
        added = per_axis("output_padding", output_padding, rank, least=0)
        for axis, (more, s) in enumerate(zip(added, window.strides, strict=True)):
            if more >= s:  # up to the dilation torch allows it, ONNX Runtime does not
                raise InputError(
                    f"output_padding={more} of spatial axis {axis} is not below its stride {s}; "
                    f"use at most {s - 1}, or lower the pads at the end"
                )
        stamp = cls(window, *_crops(window, added))
        for axis, n in enumerate(stamp.output_size(size)):
            if isinstance(n, int) and n < 1:
                raise InputError(
                    f"pads={window.pads} leave {n} pixels of spatial axis {axis}; crop less, or "
                    "use a larger kernel or stride"
                )
        return stamp

    def output_size(self, size: Sequence[Any]) -> tuple[Any, ...]:
        """Of an input of this size, whose dimensions may be symbolic."""
        axes = zip(
            size,
            self.window.strides,
            self.window.extent,
            self.crops,
            self.output_padding,
            strict=True,
        )
        return tuple(n * s + (extent - s - sum(crop) + more) for n, s, extent, crop, more in axes)

    def attributes(self) -> Mapping[str, Any]:
        """Those of the ONNX node, without ``auto_pad``."""
        begins, ends = zip(*self.crops, strict=True)
        return {
            "kernel_shape": self.window.kernel_shape,
            "strides": self.window.strides,
            "dilations": self.window.dilations,
            "pads": (*begins, *ends),
            "output_padding": self.output_padding if any(self.output_padding) else None,
        }


def _crops(
    window: Window, added: tuple[int, ...]
) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    """What to crop from both sides of each axis, and the output padding that goes with it."""
    rank = len(added)
    if not window.auto_pad.startswith("SAME"):
        return tuple(zip(window.pads[:rank], window.pads[rank:], strict=True)), added
    crops, padding = [], []
    for more, s, extent in zip(added, window.strides, window.extent, strict=True):
        # A kernel that does not fill the stride makes less than size * stride.
        more = max(more, s - extent)
        total = extent + more - s
        small, large = total // 2, total - total // 2
        crops.append((small, large) if window.auto_pad == "SAME_UPPER" else (large, small))
        padding.append(more)
    return tuple(crops), tuple(padding)


def costs(
    shape: Shape,
    channels: int,
    kernel_shape: int | Sequence[int] = 3,
    *,
    group: int = 1,
    output_padding: int | Sequence[int] = 0,
    itemsize: int = 4,
    **options: Unpack[ConvOptions],
) -> LayerCosts:
    """Costs on an input of ``shape``, (N, C_in, *size): every weight meets every input position.

    The inserted zeros cost nothing: no runtime multiplies with them.
    """
    inputs = shape[1]
    assert isinstance(inputs, int)
    channels, group = check_groups(inputs, channels, group)
    size = symbolic(shape[2:])
    stamp = _Stamp.of(size, kernel_shape, output_padding, options)
    window = stamp.window
    return LayerCosts(
        convolution_costs(
            shape,
            (inputs, channels // group, *window.kernel_shape),
            (shape[0], channels, *plain(stamp.output_size(size))),
            bias=channels if has_bias(options) else 0,
            transposed=True,
            itemsizes=(itemsize,) * 3,
        ),
        window.extent,
        tuple(
            ReceptiveField().through(extent, upscale=stride).size
            for extent, stride in zip(window.extent, window.strides, strict=True)
        ),
    )


def reference(
    x: Array,
    parameters: Parameters,
    channels: int,
    kernel_shape: int | Sequence[int] = 3,
    *,
    group: int = 1,
    output_padding: int | Sequence[int] = 0,
    **options: Unpack[ConvOptions],
) -> Array:
    """The definition: zeros between the pixels and around them, then an ordinary convolution.

    Its kernel is flipped; output padding is appended to the result, and ``pads`` are cropped.
    """
    stamp = _Stamp.of(x.shape[2:], kernel_shape, output_padding, options)
    window, rank = stamp.window, x.ndim - 2
    spaced = space_out(x.astype(np.float64), window.strides)
    bordered = pad_zeros(spaced, [(extent - 1, extent - 1) for extent in window.extent])
    kernels = space_out(parameters["weight"].astype(np.float64), window.dilations)
    flipped = np.flip(kernels, axis=tuple(range(2, 2 + rank)))
    maps = [
        slide(part, own.swapaxes(0, 1), (1,) * rank)
        for part, own in zip(
            np.split(bordered, group, axis=1), np.split(flipped, group), strict=True
        )
    ]
    y = pad_zeros(np.concatenate(maps, axis=1), [(0, more) for more in stamp.output_padding])
    kept: list[Any] = [
        slice(begin, n - end) for (begin, end), n in zip(stamp.crops, y.shape[2:], strict=True)
    ]
    return finish_reference(y[(..., *kept)], parameters, options)


CASES = (
    case(2, 3, 4, 5, channels=4, kernel_shape=4, strides=2, pads=1),
    case(1, 4, 7, channels=6, strides=3, output_padding=2, activation="Relu"),
    case(1, 2, 3, 2, 3, channels=3, kernel_shape=(2, 3, 1), strides=(2, 1, 3), bias=False),
    case(1, 4, 4, 5, channels=6, group=2, strides=2, dilations=(1, 2), pads=(1, 0, 0, 2)),
    case(1, 3, 5, 4, channels=2, kernel_shape=4, strides=(2, 3), auto_pad="SAME_UPPER"),
    case(1, 3, 5, 4, channels=2, kernel_shape=(2, 3), strides=(3, 2), auto_pad="SAME_LOWER"),
    case(1, 4, 3, 3, channels=4, group=4, strides=2, batch_norm=True, activation="LeakyRelu"),
)
