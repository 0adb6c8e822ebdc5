"""Float64 kernels of the sliding-window operators, in numpy, for any number of spatial axes.

Each loops over the kernel's taps only: a tap is one strided view of the input (convolution, pools)
or of the output (transposed convolution), so the work inside the loop is one matrix product, for
some taps at once where channels are few.
Shapes follow the ONNX operator specification: inputs ``(N, C, *spatial)``.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_ROWS = 256
"""Inner size of a convolution's matrix products, where the channels of a group are fewer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """Geometry of a sliding window, one entry per spatial axis in every field."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @classmethod
    def from_attributes(
        cls,
        spatial: Sequence[int],
        kernel: Sequence[int],
        strides: Sequence[int] | None,
        dilations: Sequence[int] | None,
        pads: Sequence[int] | None,
        auto_pad: str | None,
    ) -> Window:
        """Fill in the defaults of the ONNX attributes and resolve ``auto_pad`` for an input."""
        rank = len(kernel)
        strides = tuple(strides or [1] * rank)
        dilations = tuple(dilations or [1] * rank)
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            totals = [
                max(0, (-(-size // stride) - 1) * stride + dilation * (k - 1) + 1 - size)
                for size, stride, dilation, k in zip(
                    spatial, strides, dilations, kernel, strict=True
                )
            ]
            begin, end = split_padding(totals, auto_pad)
        elif auto_pad == "VALID" or not pads:
            begin = end = (0,) * rank
        else:
            begin, end = tuple(pads[:rank]), tuple(pads[rank:])
        return cls(tuple(kernel), strides, dilations, begin, end)

    @property
    def extent(self) -> tuple[int, ...]:
        """Pixels one window covers: ``dilation * (kernel - 1) + 1``."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel, strict=True))

    def positions(self, spatial: Sequence[int], *, ceil_mode: bool = False) -> tuple[int, ...]:
        """Count the windows per axis; with ``ceil_mode`` the last one may overhang the end."""
        counts = []
        for size, begin, end, extent, stride in zip(
            spatial, self.begin, self.end, self.extent, self.strides, strict=True
        ):
            room = size + begin + end - extent
            count = (-(-room // stride) if ceil_mode else room // stride) + 1
            # No window may start in the padding after the input.
            overhangs = ceil_mode and (count - 1) * stride >= size + begin
            counts.append(max(0, count - overhangs))
        return tuple(counts)

    def taps(self, padded: Array, positions: Sequence[int]) -> Iterator[Array]:
        """Yield, tap by tap in C order, the view of ``padded`` that this tap sees at all positions.

        Each has the shape ``(*leading, *positions)``.
        """
        for tap in np.ndindex(*self.kernel):
            steps = zip(tap, self.dilations, positions, self.strides, strict=True)
            seen: Any = (slice(t * d, t * d + n * s, s) for t, d, n, s in steps)
            yield padded[(..., *seen)]

    def pad(self, x: Array, positions: Sequence[int], fill: float) -> Array:
        """Pad the input so that every window lies inside, overhanging ones too."""
        widths = [(0, 0)] * (x.ndim - len(self.kernel))
        for size, begin, end, extent, stride, n in zip(
            x.shape[-len(self.kernel) :],
            self.begin,
            self.end,
            self.extent,
            self.strides,
            positions,
            strict=True,
        ):
            widths.append((begin, max(end, (n - 1) * stride + extent - size - begin)))
        return np.pad(x, widths, constant_values=fill)


def split_padding(
    totals: Sequence[int], auto_pad: str | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split total padding into begin and end; the odd one goes to the end for SAME_UPPER only."""
    smaller = tuple(total // 2 for total in totals)
    larger = tuple(total - total // 2 for total in totals)
    return (smaller, larger) if auto_pad == "SAME_UPPER" else (larger, smaller)


def convolve(x: Array, weight: Array, bias: Array | None, window: Window, group: int) -> Array:
    """ONNX Conv of ``x`` ``(N, C, *spatial)`` by ``weight`` ``(M, C / group, *kernel)``."""
    positions = window.positions(x.shape[2:])
    batch, per_group = x.shape[0], x.shape[1] // group
    taps = weight.reshape(group, -1, per_group, weight[0, 0].size)
    views = window.taps(window.pad(x, positions, 0.0), positions)
    if weight.shape[:2] == (group, 1):  # depthwise: products of single numbers, no matrices
        scalars = weight.reshape(group, -1, *[1] * len(positions))
        result = sum(scalars[:, tap] * view for tap, view in enumerate(views))
        return _add_bias(np.asarray(result), bias)
    result = np.zeros((batch, group, taps.shape[1], math.prod(positions)))
    # Few channels make thin matrices: then several taps go into one product.
    together = max(1, _ROWS // per_group)
    for first in range(0, taps.shape[-1], together):
        seen = [v.reshape(batch, group, per_group, -1) for v in islice(views, together)]
        columns = np.concatenate(seen, axis=2) if len(seen) > 1 else seen[0]
        rows = taps[..., first : first + together].swapaxes(2, 3)
        result += rows.reshape(*taps.shape[:2], -1) @ columns
    return _add_bias(result.reshape(batch, len(weight), *positions), bias)


def convolve_transposed(
    x: Array,
    weight: Array,
    bias: Array | None,
    window: Window,
    group: int,
    output_spatial: Sequence[int],
) -> Array:
    """ONNX ConvTranspose of ``x`` ``(N, C, *spatial)`` by ``weight`` ``(C, M / group, *kernel)``.

    The result has the size ``output_spatial``; positions that no tap reaches hold the bias.
    """
    batch, per_group, spatial = x.shape[0], x.shape[1] // group, x.shape[2:]
    taps = weight.reshape(group, per_group, weight.shape[1], weight[0, 0].size)
    canvas_size = [
        max((n - 1) * stride + extent, begin + size)
        for n, stride, extent, begin, size in zip(
            spatial, window.strides, window.extent, window.begin, output_spatial, strict=True
        )
    ]
    canvas = np.zeros((batch, group * weight.shape[1], *canvas_size))
    columns = x.reshape(batch, group, per_group, -1)
    for tap, view in enumerate(window.taps(canvas, spatial)):
        view += (taps[..., tap].swapaxes(1, 2) @ columns).reshape(view.shape)
    inside: Any = (slice(b, b + n) for b, n in zip(window.begin, output_spatial, strict=True))
    return _add_bias(canvas[(..., *inside)], bias)


def _add_bias(x: Array, bias: Array | None) -> Array:
    return x if bias is None else x + bias.reshape(x.shape[1], *[1] * (x.ndim - 2))


def pool_max(x: Array, window: Window, *, ceil_mode: bool) -> Array:
    """ONNX MaxPool; padding never wins."""
    positions = window.positions(x.shape[2:], ceil_mode=ceil_mode)
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    views = window.taps(window.pad(x, positions, lowest), positions)
    return functools.reduce(np.maximum, views)


def pool_average(x: Array, window: Window, *, ceil_mode: bool, count_include_pad: bool) -> Array:
    """ONNX AveragePool; what overhangs the padding in ``ceil_mode`` never counts."""
    positions = window.positions(x.shape[2:], ceil_mode=ceil_mode)
    counted = np.ones(x.shape[2:])
    if count_include_pad:
        counted = np.pad(
            counted, list(zip(window.begin, window.end, strict=True)), constant_values=1.0
        )
        counting = dataclasses.replace(window, begin=(0,) * counted.ndim, end=(0,) * counted.ndim)
    else:
        counting = window
    counts = sum(window.taps(counting.pad(counted, positions, 0.0), positions))
    total = sum(window.taps(window.pad(x, positions, 0.0), positions))
    return np.asarray(total / counts)
