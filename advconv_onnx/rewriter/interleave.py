"""Spellings of the interleave: maps whose pixels are put between each other on a finer grid.

    y[n, m, h s + a, w t + b]  =  part[a t + b][n, m, h, w]        (any number of spatial axes)

Every spelling computes the same. Which is fastest depends on the layout the parts are in: ONNX
Runtime reads and writes its blocked layout channels last at no cost beyond that of leaving it, and
moves rows of numbers that stay together much faster than single numbers.

Where one convolution makes all maps, they are one part: their channels one behind the other, which
``depth_to_space`` and ``channels_last`` accept.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.rule import Refused

_END = 2**31 - 1
"""Where a Slice ends that takes the rest."""

Spelling = Literal["depth_to_space", "channels_last", "rows", "planes"]


@dataclasses.dataclass(frozen=True)
class Interleave:
    """One entry of ``steps``, ``sizes`` and ``cuts`` per spatial axis.

    Attributes:
        batch: images at a time, None where dynamic.
        channels: of each map, and of the result.
        steps: number of maps along each axis.
        sizes: pixels of each map, None where dynamic.
        cuts: pixels that the result loses at its beginning and at its end.
    """

    batch: int | None
    channels: int
    steps: tuple[int, ...]
    sizes: tuple[int | None, ...]
    cuts: tuple[tuple[int, int], ...]

    def spelled(self, spelling: Spelling, op: Builder, parts: Sequence[ir.Value]) -> ir.Value:
        """The result of one spelling.

        Raises:
            Refused: it does not fit the axes, or needs a size that is dynamic.
        """
        if math.prod(self.steps) == 1:
            return self._cropped(op, parts[0], first=2)
        build: Callable[..., ir.Value] = getattr(self, f"_{spelling}")
        return build(op, parts)

    def _depth_to_space(self, op: Builder, parts: Sequence[ir.Value]) -> ir.Value:
        """Concat - DepthToSpace, for any sizes.

        Raises:
            Refused: there are not two spatial axes with as many maps along each.
        """
        if len(self.steps) != 2 or len(set(self.steps)) > 1:
            raise Refused("DepthToSpace needs two spatial axes with as many phases along each")
        y = op.DepthToSpace(_concat(op, parts, 1), blocksize=self.steps[0], mode="DCR")
        return self._cropped(op, y, first=2)

    def _channels_last(self, op: Builder, parts: Sequence[ir.Value]) -> ir.Value:
        """Concat - Transpose to channels last - Reshape - Transpose of rows - Reshape - and back.

        Batch and rows are one axis meanwhile: ONNX Runtime would exchange a Reshape of the channels
        alone with the Transpose before it, and then move single numbers.

        Raises:
            Refused: a size that Reshape cannot infer is dynamic.
        """
        rank = len(self.steps)
        *outer, inner = self.steps
        y = op.Transpose(_concat(op, parts, 1), perm=[0, *range(2, rank + 2), 1])
        if math.prod(outer) == 1:
            y = _reshaped(op, y, [0] * rank + [-1, self.channels])
        else:
            merged = _inferred((None, *self.sizes[1:]))
            y = _reshaped(op, y, [*merged, *outer, inner * self.channels])
            pairs = [axis for i in range(rank - 1) for axis in (i, rank + i)]
            y = op.Transpose(y, perm=[*pairs, rank - 1, 2 * rank - 1])
            y = _reshaped(op, y, [*_inferred((self.batch, *self._result)), self.channels])
        y = self._cropped(op, y, first=1)
        return op.Transpose(y, perm=[0, rank + 1, *range(1, rank + 1)])

    def _rows(self, op: Builder, parts: Sequence[ir.Value]) -> ir.Value:
        """Channels last, the maps of each row by themselves; then whole rows are joined.

        Raises:
            Refused: there are not two spatial axes, or both sizes are dynamic.
        """
        if len(self.steps) != 2:
            raise Refused("rows are joined where there are two spatial axes")
        flat = [
            _reshaped(op, op.Transpose(row, perm=[0, 2, 3, 1]), [0, 0, -1])
            for row in self._by_row(op, parts)
        ]
        y = _reshaped(op, _concat(op, flat, 2), [0, *_inferred(self._result), self.channels])
        return op.Transpose(self._cropped(op, y, first=1), perm=[0, 3, 1, 2])

    def _planes(self, op: Builder, parts: Sequence[ir.Value]) -> ir.Value:
        """Channels first: the maps of each row as columns of a matrix; then whole rows are joined.

        Raises:
            Refused: there are more than two spatial axes, or the length of rows is dynamic.
        """
        rank = len(self.steps)
        if rank > 2:
            raise Refused("planes have one or two spatial axes")
        result = [0, self.channels, *_inferred((None, *self._result[1:]))]
        columns = [_reshaped(op, row, [0, self.steps[-1], -1]) for row in self._by_row(op, parts)]
        planes = [_reshaped(op, op.Transpose(y, perm=[0, 2, 1]), result) for y in columns]
        y = planes[0] if len(planes) == 1 else _reshaped(op, _concat(op, planes, 3), result)
        return self._cropped(op, y, first=2)

    def _by_row(self, op: Builder, parts: Sequence[ir.Value]) -> list[ir.Value]:
        """The maps of each row, one behind the other."""
        each = self.steps[-1]
        return [_concat(op, parts[i : i + each], 1) for i in range(0, len(parts), each)]

    @property
    def _result(self) -> tuple[int | None, ...]:
        """Sizes of the result before it is cut."""
        return tuple(
            None if size is None else size * step
            for size, step in zip(self.sizes, self.steps, strict=True)
        )

    def _cropped(self, op: Builder, y: ir.Value, first: int) -> ir.Value:
        """Without what the result has too much; its spatial axes begin at ``first``."""
        axes = [axis for axis, cut in enumerate(self.cuts) if any(cut)]
        if not axes:
            return y
        numbers = {
            "starts": [self.cuts[axis][0] for axis in axes],
            "ends": [-self.cuts[axis][1] or _END for axis in axes],
            "axes": [first + axis for axis in axes],
        }
        return op.Slice(y, *(op.initializer(_ints(n), name) for name, n in numbers.items()))


def _inferred(sizes: Sequence[int | None]) -> list[int]:
    """Sizes as Reshape takes them.

    Raises:
        Refused: it would have to infer more than one.
    """
    if list(sizes).count(None) > 1:
        raise Refused("the form needs static shapes, and more than one size is dynamic")
    return [-1 if size is None else size for size in sizes]


def _reshaped(op: Builder, y: ir.Value, shape: Sequence[int]) -> ir.Value:
    return op.Reshape(y, op.initializer(_ints(shape), "shape"))


def _ints(numbers: Sequence[int]) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


def _concat(op: Builder, parts: Sequence[ir.Value], axis: int) -> ir.Value:
    return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=axis)
