"""Certificates: two ways to compute a layer are equal along one axis, exactly.

Both are multiplied out to the rational tensor T[k, o, i] and compared entry by entry, borders
included. Equal tensors mean equal outputs for every input and every weight; with one certificate
for the rows and one for the columns, the layer of both axes is proved.

There is no clock here: who certifies may note in the certificate how long it took.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction

from advconv_onnx.algebra.axis import AxisOperator, Row
from advconv_onnx.algebra.factor import Factorization
from advconv_onnx.errors import CheckError

Form = AxisOperator | Factorization


class NotEqual(CheckError):
    """Two forms differ; the message names the first entry that does, and both its values."""


@dataclasses.dataclass(frozen=True, slots=True)
class Certificate:
    """An identity that was proved; printed, one line.

    Attributes:
        identity: what equals what.
        entries: how many numbers were compared, zeros included.
        sizes: the smallest and largest size compared, where the identity holds for every size.
        seconds: how long it took, if the caller measured it.
    """

    identity: str
    entries: int
    sizes: tuple[int, int] | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        details = f"{self.entries:,} entries"
        if self.sizes:
            details += f" of sizes {self.sizes[0]} to {self.sizes[1]}, which prove all others"
        if self.seconds is not None:
            details += f", {self.seconds * 1e3:.0f} ms"
        return f"{self.identity} equals it exactly ({details})"


def certify(identity: str, want: AxisOperator, got: Form) -> Certificate:
    """Prove that a form computes what an operator does.

    Args:
        identity: what is proved, such as "rows: F(4,3) of convolution k3 d2 p2 on 33 pixels".
        want: the layer.
        got: the form.

    Raises:
        NotEqual: they differ in size or in an entry.
    """
    if isinstance(got, Factorization) and got.before.outputs != got.after.inputs:
        tiles = f"{got.before.outputs} tiles are made and {got.after.inputs} are read"
        raise NotEqual(f"{identity}: {tiles}")
    found = got.product() if isinstance(got, Factorization) else got
    shapes = [(form.taps, form.outputs, form.inputs) for form in (want, found)]
    if shapes[0] != shapes[1]:
        wanted, given = (" x ".join(map(str, shape)) for shape in shapes)
        raise NotEqual(f"{identity}: {given} taps, outputs and inputs, not {wanted}")
    if found.rows != want.rows:
        raise NotEqual(f"{identity}: {_difference(want, found)}")
    return Certificate(identity, want.entries)


def certify_all_sizes(
    identity: str,
    want: Callable[[int], AxisOperator],
    got: Callable[[int], Form],
    period: int,
    reach: int,
) -> Certificate:
    """Prove for every number of input pixels that a form computes what an operator does.

    Convolutions, transposed convolutions, zero padding, cropping and resizing by a whole factor
    treat all pixels alike, up to a period: what an output sees, relative to its place, depends on
    its remainder and, within some reach of an end, on the distance to that end. So a size of
    2 * reach + 3 * period or more is a smaller one, of the same remainder, with one more period in
    its middle: each of its outputs is, shifted, one of the smaller size. If the two forms agree on
    all sizes up to there, they agree on all.

    That the largest sizes compared are such stretched ones, one for each remainder, is checked; a
    period or reach that is too small for the layer is refused.

    Args:
        identity: what is proved.
        want: the layer, by number of input pixels.
        got: the form, by number of input pixels.
        period: a number of input pixels after which everything repeats: the least common multiple
            of the strides, in input pixels.
        reach: a number of input pixels from an end beyond which that end is not felt.

    Raises:
        NotEqual: they differ for some size.
        ValueError: the layer does not repeat with this period beyond this reach.
    """
    largest = 2 * reach + 3 * period
    operators = {n: want(n) for n in range(1, largest + 1)}
    entries = sum(
        certify(f"{identity}, {n} pixels", operator, got(n)).entries
        for n, operator in operators.items()
    )
    for n in range(largest - period + 1, largest + 1):
        if not _is_stretched(operators[n], operators[n - period], period):
            raise ValueError(
                f"{n} pixels are not {n - period} with {period} more in the middle; "
                f"is the period {period} and the reach {reach}?"
            )
    return Certificate(identity, entries, (1, largest))


def _is_stretched(long: AxisOperator, short: AxisOperator, period: int) -> bool:
    """Whether ``long`` is ``short`` with the outputs of one period in its middle once more."""
    more = long.outputs - short.outputs
    before, after = (list(zip(*form.rows, strict=True)) for form in (short, long))
    pairs = enumerate(zip(before, after, strict=False))
    same = next((o for o, (old, new) in pairs if old != new), len(before))
    if not 0 < 2 * more <= same:
        return False
    # The outputs from same - more to same are both: as they were, and as those a period earlier.
    return after[same - more :] == [_shifted(rows, period) for rows in before[same - 2 * more :]]


def _shifted(rows: tuple[Row, ...], by: int) -> tuple[Row, ...]:
    return tuple(tuple((i + by, coefficient) for i, coefficient in row) for row in rows)


def _difference(want: AxisOperator, got: AxisOperator) -> str:
    """The first entry that differs."""
    k, o, wanted, given = next(
        (k, o, dict(a), dict(b))
        for k, rows in enumerate(zip(want.rows, got.rows, strict=True))
        for o, (a, b) in enumerate(zip(*rows, strict=True))
        if a != b
    )
    i = min(i for i in wanted | given if wanted.get(i) != given.get(i))
    zero = Fraction(0)
    return f"T[{k}, {o}, {i}] is {given.get(i, zero)}, not {wanted.get(i, zero)}"
