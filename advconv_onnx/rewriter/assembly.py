"""Enlarged, shifted and added up along one axis: what makes an output of each tap's image."""

from __future__ import annotations

import dataclasses

import numpy as np

from advconv_onnx.algebra.axis import AxisOperator
from advconv_onnx.algebra.factor import Factorization, by_taps
from advconv_onnx.rewriter.convolution import Array

_TILE = 16
"""Most output pixels of a tile."""

_SHORT = 32
"""Up to so many input pixels an axis is assembled all at once."""


@dataclasses.dataclass(frozen=True)
class Assembly:
    """How the taps of one axis are put together, a tile of output pixels at a time.

    Attributes:
        factorization: the taps (G) and the matrix (A) that puts them together.
        tile: output pixels of a tile.
        starts: for each tile the first of the input pixels it reads, of every tap.
        width: how many it reads of each tap.
    """

    factorization: Factorization
    tile: int
    starts: tuple[int, ...]
    width: int

    @classmethod
    def of(cls, operator: AxisOperator, is_last: bool) -> Assembly:
        """Assemble an axis; all at once where it is short, or last in memory."""
        whole = by_taps(operator)
        outputs, inputs = operator.outputs, operator.inputs
        tile = max(size for size in range(1, _TILE + 1) if outputs % size == 0)
        if is_last or inputs <= _SHORT or not _TILE // 2 <= tile < outputs:
            return cls(whole, outputs, (0,), inputs)
        seen = [
            [i for rows in operator.rows for row in rows[o : o + tile] for i, _ in row] or [0]
            for o in range(0, outputs, tile)
        ]
        width = max(max(pixels) - min(pixels) + 1 for pixels in seen)
        return cls(whole, tile, tuple(min(min(p), inputs - width) for p in seen), width)

    @property
    def taps(self) -> int:
        """Products per pixel."""
        return len(self.factorization.weights)

    @property
    def pixels(self) -> int:
        """Of each tap's image."""
        return self.factorization.before.inputs

    @property
    def is_tiled(self) -> bool:
        """Whether there is more than one tile."""
        return len(self.starts) > 1

    @property
    def rows(self) -> list[int]:
        """Where the rows that the tiles read lie, all taps one after the other."""
        return [
            tap * self.pixels + start + offset
            for start in self.starts
            for tap in range(self.taps)
            for offset in range(self.width)
        ]

    @property
    def matrices(self) -> Array:
        """For each tile what assembles it: (tiles, tile, taps * width)."""
        dense = self.factorization.after.dense()
        return np.stack(
            [
                np.concatenate(dense[:, o : o + self.tile, i : i + self.width], axis=1)
                for o, i in zip(range(0, dense.shape[1], self.tile), self.starts, strict=True)
            ]
        )

    @property
    def exact(self) -> Factorization:
        """The factorization, without what the tiles do not read."""
        after = self.factorization.after
        read = [range(i, i + self.width) for i in self.starts for _ in range(self.tile)]
        rows = tuple(
            tuple(
                tuple((i, c) for i, c in row if i in pixels)
                for row, pixels in zip(rows, read, strict=True)
            )
            for rows in after.rows
        )
        return dataclasses.replace(self.factorization, after=AxisOperator(after.inputs, rows))
