"""Toom-Cook: exact for every size, and points that float32 likes."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advconv_onnx.algebra.toom_cook import MOST_INPUTS, Matrix, toom_cook

SIZES = [(m, r) for m in range(1, 9) for r in range(1, 8) if m + r - 1 <= MOST_INPUTS]


def correlation(a: Matrix, g: Matrix, b: Matrix) -> list[list[list[Fraction]]]:
    """What A[(G g) * (B x)] makes of every pair of unit vectors: output, tap, input."""
    return [
        [
            [
                sum((a[o][n] * g[n][j] * b[n][i] for n in range(len(b))), Fraction(0))
                for i in range(len(b))
            ]
            for j in range(len(g[0]))
        ]
        for o in range(len(a))
    ]


def is_correlation(a: Matrix, g: Matrix, b: Matrix) -> bool:
    return all(
        value == (i == o + j)
        for o, rows in enumerate(correlation(a, g, b))
        for j, row in enumerate(rows)
        for i, value in enumerate(row)
    )


@pytest.mark.parametrize(("outputs", "taps"), SIZES)
def test_it_is_the_correlation(outputs: int, taps: int) -> None:
    a, g, b = toom_cook(outputs, taps)
    size = outputs + taps - 1
    assert (len(a), len(g), len(b)) == (outputs, size, size)
    assert is_correlation(a, g, b)


points = st.fractions(-5, 5, max_denominator=5)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_any_different_points_do(outputs: int, taps: int, data: st.DataObject) -> None:
    count = outputs + taps - 2
    chosen = data.draw(st.lists(points, min_size=count, max_size=count, unique=True))
    assert is_correlation(*toom_cook(outputs, taps, chosen))


@pytest.mark.parametrize("chosen", [[0, 1], [0, 1, 1], [0, 1, -1, 2]])
def test_other_points_are_refused(chosen: list[int]) -> None:
    with pytest.raises(ValueError, match=r"F\(2, 3\) takes 3 different points"):
        toom_cook(2, 3, [Fraction(p) for p in chosen])


def test_more_inputs_than_it_has_points_for_are_refused() -> None:
    with pytest.raises(ValueError, match="takes 12 different points, got 0"):
        toom_cook(7, MOST_INPUTS - 5)


@pytest.mark.parametrize(("outputs", "taps"), SIZES)
def test_float32_holds_both_transforms(outputs: int, taps: int) -> None:
    after, _, before = toom_cook(outputs, taps)
    for matrix in (after, before):
        exact = np.array(matrix, np.float64)
        np.testing.assert_array_equal(exact, exact.astype(np.float32))
        assert 1 <= abs(exact).max() < 2


def amplification(outputs: int, taps: int, chosen: list[Fraction] | None) -> float:
    """How much larger than one rounding the error of an output is, by the norms of A, G and B."""
    a, g, b = (np.array(z, np.float64) for z in toom_cook(outputs, taps, chosen))
    return float(((a**2).sum(0) * (g**2).sum(1) * (b**2).sum(1)).sum())


@pytest.mark.parametrize(
    ("outputs", "taps", "gain"), [(4, 2, 2), (4, 3, 2), (7, 3, 4), (6, 5, 8), (6, 3, 1), (2, 3, 1)]
)
def test_errors_are_smaller_than_with_the_classical_points(
    outputs: int, taps: int, gain: float
) -> None:
    classical = [Fraction(p) for p in (0, 1, -1, 2, -2, 0.5, -0.5, 3, -3)]
    ours = amplification(outputs, taps, None)
    assert ours * gain <= amplification(outputs, taps, classical[: outputs + taps - 2]) * (1 + 1e-9)


@pytest.mark.parametrize(("outputs", "taps"), [(4, 3), (6, 3), (6, 5)])
def test_float32_is_as_exact_as_the_norms_say(outputs: int, taps: int) -> None:
    rng = np.random.default_rng(0)
    a, g, b = (np.array(z, np.float64) for z in toom_cook(outputs, taps))
    w, x = rng.standard_normal(taps), rng.standard_normal((len(b), 500))
    want = a @ ((g @ w)[:, None] * (b @ x))
    after, before = a.astype(np.float32), b.astype(np.float32)
    products = (g @ w).astype(np.float32)[:, None] * (before @ x.astype(np.float32))
    error = np.sqrt(((after @ products - want) ** 2).mean())
    expected = math.sqrt(amplification(outputs, taps, None) / outputs) * 2.0**-24
    assert expected / 4 < error < expected * 4
