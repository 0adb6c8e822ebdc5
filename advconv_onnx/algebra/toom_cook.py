"""Toom-Cook (Winograd): a short correlation with as many products as it has inputs.

m outputs of a correlation with r taps, y[o] = sum_j g[j] x[o + j], read a = m + r - 1 inputs.
Transposed, it multiplies polynomials: one with the coefficients g, one with m coefficients, the
product with a. A polynomial of a coefficients is known by its values at a - 1 points and its
leading coefficient (the point "infinity"), so a products suffice where m * r are spelled out:

    y = A [(G g) * (B x)]

With M(x) = prod_i (x - p_i) and N_i = M / (x - p_i): column i of A holds the powers of p_i, row i
of B the coefficients of N_i, row i of G the powers of p_i over N_i(p_i); the last of A, B and G are
the unit vector, the coefficients of M, and the unit vector.

A column of A, a row of G and a row of B may be scaled if the product of their factors is one. Here
A and B hold integers over a power of two, the largest between 1 and 2, which floating point holds
exactly: only G, which is multiplied into the weights beforehand, is rounded.

Sources: Winograd, Arithmetic Complexity of Computations (SIAM 1980); Lavin and Gray, Fast
Algorithms for Convolutional Neural Networks (arXiv 1509.09308); for the points, Barabasz, Anderson,
Soodhalter and Gregg (arXiv 1803.10986).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from fractions import Fraction

Matrix = tuple[tuple[Fraction, ...], ...]

_MAGNITUDES = {
    2: "1",
    3: "1",
    4: "1/3 4/3",
    5: "2/3 3/2",
    6: "1/3 5/6 5/3",
    7: "1/2 1 2",
    8: "1/4 2/3 5/4 2",
    9: "2/5 4/5 5/4 5/2",
    10: "1/5 1/2 1 4/3 5/2",
    11: "1/3 2/3 1 3/2 3",
}
"""By number of points: these with both signs, and zero where the number is odd.

Of all sets of this kind, of fractions of small numbers, these have (within 3 %) the least error in
float32: sum over r and o of (A[o, r] |G_r| |B_r|)^2. (Two points are 1 and -1, which are simple: no
convolution is more exact than F(2, 2).) benchmarks/interpolation_points.py measures it.
"""

MOST_INPUTS = 1 + max(_MAGNITUDES)
"""No tile reads more: beyond this many products float32 loses too much."""


def toom_cook(
    outputs: int, taps: int, points: Sequence[Fraction] | None = None
) -> tuple[Matrix, Matrix, Matrix]:
    """A (outputs, a), G (a, taps) and B (a, a), exact, with a = outputs + taps - 1.

    Args:
        outputs: of one tile.
        taps: of the kernel.
        points: a - 1 different numbers; by default those that keep float32 errors smallest, where
            a is at most ``MOST_INPUTS``.

    >>> for row in toom_cook(2, 3)[1]:
    ...     print(*row)
    -1 0 0
    1/2 1/2 1/2
    1/2 -1/2 1/2
    0 0 1

    Raises:
        ValueError: not a - 1 different points.
    """
    if outputs == 1 or taps == 1:
        return _direct(outputs, taps)
    wanted = outputs + taps - 2
    chosen = _points(wanted) if points is None else tuple(points)
    if len(set(chosen)) != wanted or len(chosen) != wanted:
        raise ValueError(f"F({outputs}, {taps}) takes {wanted} different points, got {len(chosen)}")
    return _toom_cook(outputs, taps, chosen)


def _direct(outputs: int, taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """Nothing to save: each product as it is."""
    size = outputs + taps - 1
    unit = tuple(tuple(Fraction(i == j) for j in range(size)) for i in range(size))
    row, column = ((Fraction(1),) * size,), ((Fraction(1),),) * size
    return (row, unit, unit) if outputs == 1 else (unit, column, unit)


def _points(count: int) -> tuple[Fraction, ...]:
    magnitudes = map(Fraction, _MAGNITUDES.get(count, "").split())
    signed = [point for magnitude in magnitudes for point in (magnitude, -magnitude)]
    return (*[Fraction(0)] * (count % 2), *signed)


@functools.cache
def _toom_cook(
    outputs: int, taps: int, points: tuple[Fraction, ...]
) -> tuple[Matrix, Matrix, Matrix]:
    columns, weights, before = [], [], []
    for p in points:
        others = _product([q for q in points if q != p])
        column, row = _powers(p, outputs), [*others, Fraction(0)]
        at_p = sum(c * p**n for n, c in enumerate(others))
        up, across = _scale(column), _scale(row)
        columns.append([v * up for v in column])
        before.append(tuple(v * across for v in row))
        weights.append(tuple(v / (at_p * up * across) for v in _powers(p, taps)))
    all_points = _product(points)
    across = _scale(all_points)
    columns.append([Fraction(o == outputs - 1) for o in range(outputs)])
    before.append(tuple(v * across for v in all_points))
    weights.append(tuple(Fraction(j == taps - 1) / across for j in range(taps)))
    return tuple(zip(*columns, strict=True)), tuple(weights), tuple(before)


def _powers(p: Fraction, count: int) -> list[Fraction]:
    return [p**n for n in range(count)]


def _product(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of prod (x - root), the constant first."""
    polynomial = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *polynomial]
        polynomial = [
            a - root * b for a, b in zip(shifted, [*polynomial, Fraction(0)], strict=True)
        ]
    return polynomial


def _scale(values: Sequence[Fraction]) -> Fraction:
    """What makes them integers over a power of two, the largest of them between 1 and 2."""
    common = math.lcm(*(v.denominator for v in values))
    divisor = math.gcd(*(int(v * common) for v in values))
    largest = max(abs(int(v * common)) for v in values) // divisor
    return Fraction(common, divisor * 2 ** (largest.bit_length() - 1))
