"""Factorizations of axis operators: the forms in which a layer can be computed.

    T[k, o, i] = sum_r,t  G[r, k] * A[r, o, t] * B[r, t, i]

G goes into the weights, once; B turns input pixels into tiles t, A tiles into output pixels. A
layer of two axes has a factorization for each, with r products per tile and axis:

    U[r, q, m, c] = sum_k,l  G[r, k] w[m, c, k, l] G'[q, l]
    Y[m] = sum_r,q  A_r ( sum_c  U[r, q, m, c] * (B_r X[c] B'_q^T) ) A'_q^T

``product`` is the T that a factorization stands for, exactly; a certificate compares it.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from fractions import Fraction

from advconv_onnx.algebra.axis import AxisOperator, Row, from_integers, identity
from advconv_onnx.algebra.phases import Phase
from advconv_onnx.algebra.toom_cook import MOST_INPUTS, Matrix, toom_cook


@dataclasses.dataclass(frozen=True, slots=True)
class Factorization:
    """T[k, o, i] = sum_r,t  G[r, k] A[r, o, t] B[r, t, i].

    Attributes:
        weights: G (R, K).
        before: B, its taps the R products, its outputs the tiles.
        after: A, its taps the R products, its inputs the tiles.
    """

    weights: Matrix
    before: AxisOperator
    after: AxisOperator

    @property
    def multiplications(self) -> int:
        """Products for each pair of channels, along this axis."""
        return len(self.weights) * self.before.outputs

    def product(self) -> AxisOperator:
        """T, multiplied out."""
        (shared_b, before), (shared_a, after) = self.before.integers(), self.after.integers()
        kernels = AxisOperator(len(self.weights[0]), (tuple(map(_sparse, self.weights)),))
        shared_g, [weights] = kernels.integers()
        sums: list[list[dict[int, int]]] = [
            [defaultdict(int) for _ in range(self.after.outputs)] for _ in range(kernels.inputs)
        ]
        for row, tiles, outputs in zip(weights, before, after, strict=True):
            for k, g in row:
                for cells, reads in zip(sums[k], outputs, strict=True):
                    for t, a in reads:
                        for i, b in tiles[t]:
                            cells[i] += g * a * b
        return from_integers(self.before.inputs, shared_a * shared_b * shared_g, sums)


def by_taps(operator: AxisOperator) -> Factorization:
    """Each tap's products at input resolution, then added up where they belong ("taps first").

    Dead taps are left out.
    """
    live = operator.live_taps() or (0,)
    pixels = identity(operator.inputs)
    return Factorization(
        tuple(tuple(Fraction(j == k) for k in range(operator.taps)) for j in live),
        dataclasses.replace(pixels, rows=pixels.rows * len(live)),
        AxisOperator(operator.inputs, tuple(operator.rows[k] for k in live)),
    )


def phases_factorization(phases: Iterable[Phase], inputs: int, outputs: int) -> Factorization:
    """The small convolutions as they are, and the interleave of their outputs.

    Args:
        phases: of the whole layer.
        inputs: number of input pixels.
        outputs: number of output pixels. A phase that has not as many as its class makes it more or
            fewer, so that no certificate overlooks it.
    """
    phases = tuple(phases)
    products = []
    for phase in phases:
        operator = phase.operator(inputs)
        places = {phase.first + phase.step * q: [(q, Fraction(1))] for q in range(operator.outputs)}
        products += [
            _Product(taps, list(rows), places)
            for taps, rows in zip(phase.taps, operator.rows, strict=True)
        ]
    return _stacked(products, phases, inputs, outputs)


def tiled(phases: Iterable[Phase], inputs: int, outputs: int, tile: int) -> Factorization:
    """Toom-Cook on each phase, in tiles of at most ``tile`` outputs.

    Phases that share their taps (the classes of a dilation) only add tiles; those that do not stack
    along r. Taps that see nothing but padding are dropped first, and a smaller tile is taken where
    it makes no more of them.

    Args:
        phases: of the whole layer.
        inputs: number of input pixels.
        outputs: number of output pixels. A phase that has not as many as its class makes it more or
            fewer, so that no certificate overlooks it.
        tile: number of outputs computed together; 1 for the phases as they are. Long kernels get
            smaller tiles, as no tile reads more than ``MOST_INPUTS`` pixels.
    """
    phases = tuple(phases)
    groups = defaultdict(list)
    for phase in phases:
        for unit in phase.units():
            groups[unit.taps].append(unit)
    products = [
        product for taps, units in groups.items() for product in _tiles(taps, units, inputs, tile)
    ]
    return _stacked(products, phases, inputs, outputs)


def folded(factorization: Factorization, earlier: AxisOperator) -> Factorization:
    """The same layer after a step with one tap (resize, pad), at no cost: B' = B R."""
    return dataclasses.replace(factorization, before=factorization.before.after(earlier))


def pooled(factorization: Factorization, later: AxisOperator) -> Factorization:
    """The same layer before a step with one tap (average pool, crop), at no cost: A' = Q A."""
    return dataclasses.replace(factorization, after=later.after(factorization.after))


@dataclasses.dataclass(frozen=True, slots=True)
class _Product:
    """One r: its row of G, its tiles by input pixel, and its outputs by tile."""

    weights: tuple[Fraction, ...]
    before: list[Row]
    after: dict[int, list[tuple[int, Fraction]]]


def _stacked(
    products: Iterable[_Product], phases: Sequence[Phase], inputs: int, outputs: int
) -> Factorization:
    """All products that multiply something; one of nothing where there is none."""
    nothing = _Product((Fraction(0),) * len(phases[0].taps[0]), [()], {})
    products = [p for p in products if any(p.weights) and any(p.before)] or [nothing]
    tiles = max(len(p.before) for p in products)
    wanted = outputs
    for phase in phases:
        end = phase.first + phase.step * phase.outputs(inputs)
        if not end - phase.step < wanted <= end:
            outputs = end
    before = (tuple(p.before) + ((),) * (tiles - len(p.before)) for p in products)
    after = (tuple(tuple(p.after.get(o, ())) for o in range(outputs)) for p in products)
    return Factorization(
        tuple(p.weights for p in products),
        AxisOperator(inputs, tuple(before)),
        AxisOperator(tiles, tuple(after)),
    )


def _tiles(taps: Matrix, units: Sequence[Phase], inputs: int, tile: int) -> list[_Product]:
    """Toom-Cook of units that share their taps, one product for each r."""
    live = _live(units, inputs)
    tile = max(1, min(tile, MOST_INPUTS + 1 - len(live)))
    tile = _even(tile, [unit.outputs(inputs) for unit in units])
    after, weights, before = toom_cook(tile, len(live))
    kernel = _times(weights, taps[live.start : live.stop])
    products = [_Product(row, [], defaultdict(list)) for row in kernel]
    columns = tuple(zip(*after, strict=True))
    for unit in units:
        outputs = range(unit.first, unit.first + unit.step * unit.outputs(inputs), unit.step)
        for q in range(0, len(outputs), tile):
            start = unit.stride * (q + live.start) - unit.pads[0]
            pixels = range(start, start + unit.stride * len(before), unit.stride)
            for product, reads, gives in zip(products, before, columns, strict=True):
                for o, a in zip(outputs[q : q + tile], gives, strict=False):  # the last may be cut
                    if a:
                        product.after[o].append((len(product.before), a))
                cells = zip(pixels, reads, strict=True)
                product.before.append(tuple((i, b) for i, b in cells if b and 0 <= i < inputs))
    return products


def _live(units: Sequence[Phase], inputs: int) -> range:
    """The taps from the first to the last that see a pixel."""
    seen = {k for unit in units for k in unit.operator(inputs).live_taps()}
    return range(min(seen, default=0), max(seen, default=0) + 1)


def _even(tile: int, counts: Sequence[int]) -> int:
    """The smallest tile that covers these numbers of outputs in no more tiles."""

    def tiles(size: int) -> int:
        return sum(-(-count // size) for count in counts)

    return min(size for size in range(1, tile + 1) if tiles(size) == tiles(tile))


def _times(a: Matrix, b: Matrix) -> Matrix:
    columns = tuple(zip(*b, strict=True))
    return tuple(tuple(_dot(row, column) for column in columns) for row in a)


def _dot(a: Sequence[Fraction], b: Sequence[Fraction]) -> Fraction:
    return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))


def _sparse(values: Sequence[Fraction]) -> Row:
    return tuple((k, value) for k, value in enumerate(values) if value)
