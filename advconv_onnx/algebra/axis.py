"""Axis operators: what a layer does along one spatial axis, exactly.

Every convolution-like layer of a separable geometry is

    Y[m] = sum_c,k,l  w[m, c, k, l] * T_k  X[c]  S_l^T          (c over m's group)

with T[k, o, i] the operator of the rows and S that of the columns: the coefficient with which input
pixel i reaches output pixel o through tap k. Strides, dilations, padding, inserted zeros and
interpolation are all in T and S; the weights are outside. Two layers with equal operators compute
the same for every input and every weight, borders included.

A layer is composed of few steps, each an operator of its own: what makes the grid that the kernel
slides over (``pad``, ``insert_zeros``, ``resize``: one tap), and the sliding (``slide``).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Row = tuple[tuple[int, Fraction], ...]
"""What one output pixel sees through one tap: input pixels in order, with their coefficients."""

IntegerRow = list[tuple[int, int]]
"""A row times a common denominator."""

COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
)
"""Coordinate transformations of ONNX Resize; not tf_crop_and_resize, which reads a region."""

_ROUNDINGS = {
    "round_prefer_floor": lambda x: math.ceil(x - Fraction(1, 2)),
    "round_prefer_ceil": lambda x: math.floor(x + Fraction(1, 2)),
    "floor": math.floor,
    "ceil": math.ceil,
}


@dataclasses.dataclass(frozen=True, slots=True)
class AxisOperator:
    """A sparse tensor T[k, o, i] of rational numbers; equal operators compare equal.

    Attributes:
        inputs: number of input pixels.
        rows: by tap, then by output pixel; no zeros among the coefficients.
    """

    inputs: int
    rows: tuple[tuple[Row, ...], ...]

    @property
    def taps(self) -> int:
        """Length of the first axis."""
        return len(self.rows)

    @property
    def outputs(self) -> int:
        """Length of the second axis: output pixels."""
        return len(self.rows[0])

    @property
    def entries(self) -> int:
        """How many numbers the tensor holds, zeros included."""
        return self.taps * self.outputs * self.inputs

    def after(self, earlier: AxisOperator) -> AxisOperator:
        """The operator of both steps; where both have taps, one tap for each pair, ours first.

        >>> slide(6, 3).after(resize(3, scale=2)).rows[1][0]  # the middle tap on the first output
        ((0, Fraction(1, 1)),)
        >>> crop(3, 1, 0).after(slide(4, 2)).outputs
        2

        Raises:
            ValueError: the sizes do not fit.
        """
        if earlier.outputs != self.inputs:
            raise ValueError(f"{earlier.outputs} outputs before {self.inputs} inputs")
        if self._selects:
            read = ([row[0][0] if row else None for row in rows] for rows in self.rows)
            return AxisOperator(
                earlier.inputs,
                tuple(
                    tuple(step[i] if i is not None else () for i in pixels)
                    for pixels in read
                    for step in earlier.rows
                ),
            )
        (ours, later), (theirs, steps) = self.integers(), earlier.integers()
        return from_integers(
            earlier.inputs,
            ours * theirs,
            ((_composed(row, step) for row in rows) for rows in later for step in steps),
        )

    @property
    def _selects(self) -> bool:
        """Whether every tap sees one input pixel as it is, or none: then nothing is added up."""
        return all(
            not row or (len(row) == 1 and row[0][1] == 1) for rows in self.rows for row in rows
        )

    def is_zero_tap(self, k: int) -> bool:
        """Whether tap k never sees a pixel, only padding: a dead tap."""
        return not any(self.rows[k])

    def live_taps(self) -> tuple[int, ...]:
        """The taps that see a pixel somewhere.

        >>> convolution(16, 3, dilation=24, pads=(24, 24)).live_taps()
        (1,)
        """
        return tuple(k for k in range(self.taps) if not self.is_zero_tap(k))

    def integers(self) -> tuple[int, list[list[IntegerRow]]]:
        """A common denominator, and the rows multiplied by it: arithmetic on integers is fast."""
        denominators = {c.denominator for rows in self.rows for row in rows for _, c in row}
        common = math.lcm(*denominators)
        return common, [
            [[(i, c.numerator * (common // c.denominator)) for i, c in row] for row in rows]
            for rows in self.rows
        ]

    def scaled(self, factor: Fraction | int) -> AxisOperator:
        """The same with every coefficient multiplied by a factor other than zero."""
        rows = tuple(
            tuple(tuple((i, factor * c) for i, c in row) for row in outputs)
            for outputs in self.rows
        )
        return AxisOperator(self.inputs, rows)

    def reversed(self) -> AxisOperator:
        """The same with the taps in opposite order, as a transposed convolution has them."""
        return dataclasses.replace(self, rows=self.rows[::-1])

    def dense(self) -> NDArray[np.float64]:
        """As an array (taps, outputs, inputs)."""
        array = np.zeros((self.taps, self.outputs, self.inputs))
        for k, rows in enumerate(self.rows):
            for o, row in enumerate(rows):
                for i, coefficient in row:
                    array[k, o, i] = coefficient
        return array


def from_integers(
    inputs: int, denominator: int, rows: Iterable[Iterable[Mapping[int, int]]]
) -> AxisOperator:
    """The operator with these numerators, by tap, output and input; zeros may be among them."""
    fractions: dict[int, Fraction] = {}  # the same few numbers in every row

    def fraction(numerator: int) -> Fraction:
        if numerator not in fractions:
            fractions[numerator] = Fraction(numerator, denominator)
        return fractions[numerator]

    return AxisOperator(
        inputs,
        tuple(
            tuple(tuple((i, fraction(c)) for i, c in sorted(row.items()) if c) for row in outputs)
            for outputs in rows
        ),
    )


def identity(inputs: int) -> AxisOperator:
    """Every pixel as it is.

    >>> identity(2).rows
    ((((0, Fraction(1, 1)),), ((1, Fraction(1, 1)),)),)
    """
    return _selection(inputs, [range(inputs)])


def pairs(first: Sequence[int], second: Sequence[int]) -> AxisOperator:
    """Two numbers below their count as one output for each: to compare one pairing with another.

    >>> pairs([1, 0], [0, 1]).rows[0][0]
    ((1, Fraction(1, 1)), (2, Fraction(1, 1)))
    """
    count = len(first)
    rows = [{a: 1, count + b: 1} for a, b in zip(first, second, strict=True)]
    return from_integers(2 * count, 1, [rows])


def slide(inputs: int, taps: int, *, stride: int = 1, dilation: int = 1) -> AxisOperator:
    """A kernel slides over a grid: T[k, o, i] = 1 where i = o * stride + k * dilation.

    >>> slide(5, 2, dilation=3).rows[1]  # the second tap, on both positions
    (((3, Fraction(1, 1)),), ((4, Fraction(1, 1)),))
    """
    outputs = max(0, (inputs - (taps - 1) * dilation - 1) // stride + 1)
    return _selection(
        inputs, [[o * stride + k * dilation for o in range(outputs)] for k in range(taps)]
    )


def pad(inputs: int, begin: int, end: int, mode: str = "constant") -> AxisOperator:
    """Cells before and after, below zero cut off: zeros ("constant"), "edge", "reflect" or "wrap".

    >>> pad(3, 1, -1).rows
    (((), ((0, Fraction(1, 1)),), ((1, Fraction(1, 1)),)),)
    """
    zeros = {"constant_values": -1} if mode == "constant" else {}
    padded = np.pad(np.arange(inputs), (max(begin, 0), max(end, 0)), mode, **zeros)  # type: ignore
    cells = padded[max(-begin, 0) : max(len(padded) - max(-end, 0), 0)]
    return _selection(inputs, [cells.tolist()])


def crop(inputs: int, begin: int, end: int) -> AxisOperator:
    """Pixels cut off before and after.

    >>> crop(4, 1, 2).rows
    ((((1, Fraction(1, 1)),),),)
    """
    return pad(inputs, -begin, -end)


def insert_zeros(inputs: int, stride: int) -> AxisOperator:
    """``stride - 1`` zeros between neighbouring pixels.

    >>> [len(row) for row in insert_zeros(3, 2).rows[0]]
    [1, 0, 1, 0, 1]
    """
    cells = range((inputs - 1) * stride + 1)
    return _selection(inputs, [[-1 if u % stride else u // stride for u in cells]])


def convolution(
    inputs: int,
    taps: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    pads: tuple[int, int] = (0, 0),
) -> AxisOperator:
    """T[k, o, i] = 1 where i = o * stride + k * dilation - pads[0]."""
    padded = pad(inputs, *pads)
    return slide(padded.outputs, taps, stride=stride, dilation=dilation).after(padded)


def transposed_convolution(
    inputs: int,
    taps: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    pads: tuple[int, int] = (0, 0),
    output_padding: int = 0,
) -> AxisOperator:
    """T[k, o, i] = 1 where o = i * stride + k * dilation - pads[0].

    Zeros inserted and padded, then slid over by the reversed kernel.
    """
    grid = spread(
        inputs, taps, stride=stride, dilation=dilation, pads=pads, output_padding=output_padding
    )
    return slide(grid.outputs, taps, dilation=dilation).reversed().after(grid)


def spread(
    inputs: int,
    taps: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    pads: tuple[int, int] = (0, 0),
    output_padding: int = 0,
) -> AxisOperator:
    """The grid under a transposed convolution: zeros between the pixels, and around them.

    Its ``pads`` cut the output, so they take from the padding of this grid.
    """
    inserted = insert_zeros(inputs, stride)
    begin, end = ((taps - 1) * dilation - cut for cut in pads)
    return pad(inserted.outputs, begin, end + output_padding).after(inserted)


def average_pool(
    inputs: int,
    size: int,
    *,
    stride: int = 1,
    pads: tuple[int, int] = (0, 0),
    count_include_pad: bool = False,
) -> AxisOperator:
    """The mean of ``size`` cells, or of those among them that are pixels; one tap.

    In two dimensions a window at the border has as many pixels as the product of both axes says,
    so the axes separate either way.

    >>> average_pool(3, 2, stride=2, pads=(1, 0)).rows
    ((((0, Fraction(1, 1)),), ((1, Fraction(1, 2)), (2, Fraction(1, 2)))),)
    """
    windows = zip(*convolution(inputs, size, stride=stride, pads=pads).rows, strict=True)
    rows = []
    for window in windows:
        seen = [i for row in window for i, _ in row]
        mean = Fraction(1, size if count_include_pad else max(len(seen), 1))
        rows.append(tuple((i, mean) for i in seen))
    return AxisOperator(inputs, (tuple(rows),))


def resize(
    inputs: int,
    outputs: int | None = None,
    *,
    scale: Fraction | int | None = None,
    mode: str = "nearest",
    coordinates: str = "asymmetric",
    rounding: str = "floor",
    cubic_coefficient: Fraction = Fraction(-3, 4),
    exclude_outside: bool = False,
) -> AxisOperator:
    """Interpolation as ONNX Resize defines it, without antialiasing.

    Args:
        inputs: number of input pixels.
        outputs: number of output pixels; floor(inputs * scale) by default.
        scale: outputs / inputs by default.
        mode: nearest, linear or cubic.
        coordinates: one of ``COORDINATES``.
        rounding: of the coordinate in nearest mode: round_prefer_floor, round_prefer_ceil, floor
            or ceil.
        cubic_coefficient: Keys's a.
        exclude_outside: cubic: leave out pixels beyond the border, where otherwise the border's
            pixel counts in their place.

    >>> resize(2, scale=2, mode="linear", coordinates="half_pixel").dense()[0].tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]

    Raises:
        ValueError: neither ``outputs`` nor ``scale``.
    """
    if outputs is None:
        if scale is None:
            raise ValueError("give outputs, scale, or both")
        outputs = math.floor(inputs * scale)
    factor = Fraction(outputs, inputs) if scale is None else Fraction(scale)
    rows = []
    for o in range(outputs):
        x = _coordinate(coordinates, o, inputs, outputs, factor)
        if mode == "nearest":
            weights = {_ROUNDINGS[rounding](x): Fraction(1)}
        elif mode == "linear":
            weights = {math.floor(x): 1 - x % 1, math.floor(x) + 1: x % 1}
        else:
            weights = _cubic(x, cubic_coefficient)
            if exclude_outside:
                inside = {i: weight for i, weight in weights.items() if 0 <= i < inputs}
                weights = {i: weight / sum(inside.values()) for i, weight in inside.items()}
        rows.append(_row((min(max(i, 0), inputs - 1), weight) for i, weight in weights.items()))
    return AxisOperator(inputs, (tuple(rows),))


def _coordinate(mode: str, o: int, inputs: int, outputs: int, scale: Fraction) -> Fraction:
    """Where output pixel o lies on the input."""
    half = Fraction(1, 2)
    centre = (o + half) / scale - half
    if mode == "half_pixel":
        return centre
    if mode == "half_pixel_symmetric":
        return centre + Fraction(inputs, 2) * (1 - outputs / (scale * inputs))
    if mode == "pytorch_half_pixel":
        return centre if outputs > 1 else Fraction(0)
    if mode == "align_corners":
        return Fraction(o * (inputs - 1), outputs - 1) if outputs > 1 else Fraction(0)
    if mode == "tf_half_pixel_for_nn":
        return centre + half
    return o / scale


def _cubic(x: Fraction, a: Fraction) -> dict[int, Fraction]:
    """Keys's cubic convolution: the two pixels on either side and their weights."""
    first, r = math.floor(x) - 1, x % 1

    def near(d: Fraction) -> Fraction:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Fraction) -> Fraction:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return dict(enumerate((far(r + 1), near(r), near(1 - r), far(2 - r)), first))


def _selection(inputs: int, chosen: Sequence[Iterable[int]]) -> AxisOperator:
    """By tap and output the one input pixel it sees; below zero for none."""
    one = Fraction(1)
    return AxisOperator(
        inputs,
        tuple(tuple(((i, one),) if i >= 0 else () for i in outputs) for outputs in chosen),
    )


def _composed(row: IntegerRow, step: Sequence[IntegerRow]) -> dict[int, int]:
    sums: dict[int, int] = {}
    for cell, a in row:
        for i, b in step[cell]:
            sums[i] = sums.get(i, 0) + a * b
    return sums


def _row(entries: Iterable[tuple[int, Fraction]]) -> Row:
    sums: dict[int, Fraction] = {}
    for i, coefficient in entries:
        sums[i] = sums.get(i, Fraction(0)) + coefficient
    return tuple(sorted((i, coefficient) for i, coefficient in sums.items() if coefficient))
