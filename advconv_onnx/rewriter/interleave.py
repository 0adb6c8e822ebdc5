"""Spellings of the interleave: maps whose pixels are put between each other on a finer grid.

    y[n, m, h s + a, w t + b]  =  part[a t + b][n, m, h, w]        (any number of spatial axes)

Every spelling computes the same; which is fastest depends on the layout that an execution provider
keeps its convolutions in.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.rule import Refused


@dataclasses.dataclass(frozen=True)
class Interleave:
    """One entry of ``steps``, ``sizes`` and ``cuts`` per spatial axis.

    Attributes:
        channels: of each part, and of the result.
        steps: number of parts along each axis.
        sizes: pixels of each part, None where dynamic.
        cuts: pixels that the result loses at its end.
    """

    channels: int
    steps: tuple[int, ...]
    sizes: tuple[int | None, ...]
    cuts: tuple[int, ...]

    def depth_to_space(self, op: Builder, parts: Sequence[ir.Value]) -> ir.Value:
        """Concat - DepthToSpace, for any sizes.

        Raises:
            Refused: there are not two spatial axes with as many parts along each.
        """
        if len(self.steps) != 2 or len(set(self.steps)) > 1:
            raise Refused("DepthToSpace needs two spatial axes with as many phases along each")
        y = op.DepthToSpace(_concat(op, parts, axis=1), blocksize=self.steps[0], mode="DCR")
        return self._cropped(op, y, first=2)

    def channels_last(self, op: Builder, parts: Sequence[ir.Value]) -> ir.Value:
        """Concat - Transpose to channels last - Reshape - Transpose of rows - Reshape - and back.

        Only the innermost rows of s M numbers are moved, never single ones.

        Raises:
            Refused: more than one size is dynamic, where that matters.
        """
        rank = len(self.steps)
        y = op.Transpose(_concat(op, parts, axis=1), perm=[0, *range(2, rank + 2), 1])
        *outer, inner = self.steps
        row = inner * self.channels
        if math.prod(outer) == 1:
            y = self._reshaped(op, y, [0] * rank + [-1, self.channels])
        else:
            merged = self._merged()
            y = self._reshaped(op, y, [*[0] * (rank + 1), *outer, row])
            pairs = [axis for i in range(1, rank) for axis in (i, rank + i)]
            y = op.Transpose(y, perm=[0, *pairs, rank, 2 * rank])
            y = self._reshaped(op, y, [0, *merged, self.channels])
        y = self._cropped(op, y, first=1)
        return op.Transpose(y, perm=[0, rank + 1, *range(1, rank + 1)])

    def rows(self, op: Builder, parts: Sequence[ir.Value]) -> ir.Value:
        """Channels last, each row of parts by itself; then whole rows are put side by side.

        Raises:
            Refused: there are not two spatial axes, or both sizes are dynamic.
        """
        if len(self.steps) != 2:
            raise Refused("rows are joined where there are two spatial axes")
        merged = self._merged()
        step = self.steps[1]
        flat = []
        for a in range(0, len(parts), step):
            y = op.Transpose(_concat(op, parts[a : a + step], axis=1), perm=[0, 2, 3, 1])
            flat.append(self._reshaped(op, y, [0, 0, -1]))
        y = self._reshaped(op, _concat(op, flat, axis=2), [0, *merged, self.channels])
        return op.Transpose(self._cropped(op, y, first=1), perm=[0, 3, 1, 2])

    def _merged(self) -> list[int]:
        """Sizes of the result as Reshape takes them."""
        sizes = [
            -1 if size is None else size * step
            for size, step in zip(self.sizes, self.steps, strict=True)
        ]
        if sizes.count(-1) > 1:
            raise Refused("more than one spatial size is dynamic, and Reshape infers only one")
        return sizes

    def _cropped(self, op: Builder, y: ir.Value, first: int) -> ir.Value:
        """Without what the result has too much; its spatial axes begin at ``first``."""
        axes = [axis for axis, cut in enumerate(self.cuts) if cut]
        if not axes:
            return y
        numbers = {
            "starts": [0] * len(axes),
            "ends": [-self.cuts[axis] for axis in axes],
            "axes": [first + axis for axis in axes],
        }
        return op.Slice(y, *(op.initializer(_ints(n), name) for name, n in numbers.items()))

    def _reshaped(self, op: Builder, y: ir.Value, shape: list[int]) -> ir.Value:
        return op.Reshape(y, op.initializer(_ints(shape), "shape"))


Spelling = Callable[[Interleave, Builder, Sequence[ir.Value]], ir.Value]

SPELLINGS: dict[str, Spelling] = {
    "depth_to_space": Interleave.depth_to_space,
    "channels_last": Interleave.channels_last,
    "rows": Interleave.rows,
}
"""All of them, by name."""


def _ints(numbers: Sequence[int]) -> np.ndarray:
    return np.array(numbers, np.int64)


def _concat(op: Builder, parts: Sequence[ir.Value], axis: int) -> ir.Value:
    return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=axis)
