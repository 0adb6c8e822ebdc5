"""Rounding errors of Toom-Cook in float32, by interpolation points.

    python benchmarks/interpolation_points.py [--channels N] [--seed N]

Two-dimensional tiles of random inputs and weights, transformed, multiplied, summed over the
channels and transformed back in float32, against the convolution in float64. Prints for each
F(m, r) the largest error relative to the output's range: of the classical points (0, 1, -1, 2, -2,
1/2 ...), of our own, of the convolution itself in float32, and the classical error over ours.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advconv_onnx.algebra.toom_cook import toom_cook

_CLASSICAL = "0 1 -1 2 -2 1/2 -1/2 3 -3 1/3 -1/3"
CLASSICAL = tuple(map(Fraction, _CLASSICAL.split()))
SIZES = ((2, 3), (3, 2), (4, 2), (3, 3), (4, 3), (6, 2), (5, 3), (6, 3), (4, 5), (7, 3), (6, 5),
         (5, 7), (6, 7))  # fmt: skip
TILES = 300
Array = NDArray[Any]


def convolved(x: Array, w: Array) -> Array:
    """The convolution as it is defined, in the type of its operands: (tiles, outputs, outputs)."""
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[1:], (2, 3))
    return np.asarray(np.einsum("ncijkl,ckl->nij", windows, w))


def multiplied(x: Array, w: Array, outputs: int, points: Sequence[Fraction] | None) -> Array:
    """The same by Toom-Cook in float32, weights transformed in float64."""
    a, g, b = (np.array(z, np.float64) for z in toom_cook(outputs, w.shape[1], points))
    after, before = a.astype(np.float32), b.astype(np.float32)
    weights = (g @ w @ g.T).astype(np.float32)
    products = np.einsum("ncij,cij->nij", before @ x @ before.T, weights)
    return np.asarray(after @ products @ after.T)


def main() -> None:
    """Print a row for each size."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{'':8} {'classical':>10} {'ours':>10} {'direct':>10} {'better':>8}")
    for m, r in SIZES:
        rng = np.random.default_rng(options.seed)
        size = m + r - 1
        x = rng.standard_normal((TILES, options.channels, size, size)).astype(np.float32)
        w = rng.standard_normal((options.channels, r, r)).astype(np.float32).astype(np.float64)
        want = convolved(x.astype(np.float64), w)
        found = (
            multiplied(x, w, m, CLASSICAL[: size - 1]),
            multiplied(x, w, m, None),
            convolved(x, w.astype(np.float32)),
        )
        old, new, direct = (np.abs(y - want).max() / np.abs(want).max() for y in found)
        print(f"F({m}, {r})  {old:10.1e} {new:10.1e} {direct:10.1e} {old / new:8.1f}")


if __name__ == "__main__":
    main()
