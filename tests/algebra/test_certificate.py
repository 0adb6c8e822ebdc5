"""Certificates: any wrong entry, tile, phase or pad fails them, and the message says where."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from fractions import Fraction

import pytest

from advconv_onnx.algebra.axis import (
    AxisOperator,
    Row,
    convolution,
    crop,
    pad,
    resize,
    transposed_convolution,
)
from advconv_onnx.algebra.certificate import Certificate, NotEqual, certify, certify_all_sizes
from advconv_onnx.algebra.factor import Factorization, by_taps, phases_factorization, tiled
from advconv_onnx.algebra.phases import (
    Phase,
    dilated_phases,
    nearest_phases,
    strided_phases,
    transposed_phases,
)

CONVOLUTION = convolution(8, 3, pads=(1, 1))
F43 = tiled(dilated_phases(3, 1, (1, 1)), 8, 8, 4)


def changed_entries(operator: AxisOperator) -> Iterator[AxisOperator]:
    """One coefficient of the operator a little larger, moved, or taken away."""
    for r, rows in enumerate(operator.rows):
        for o, row in enumerate(rows):
            for n, (i, c) in enumerate(row):
                beside = {**dict(row), (i + 1) % operator.inputs: c}
                for other in (
                    (*row[:n], (i, c + Fraction(1, 1000)), *row[n + 1 :]),
                    row[:n] + row[n + 1 :],
                    tuple(sorted(beside.items())),
                ):
                    if other != row:
                        yield with_row(operator, r, o, other)


def with_row(operator: AxisOperator, r: int, o: int, row: Row) -> AxisOperator:
    rows = [list(outputs) for outputs in operator.rows]
    rows[r][o] = row
    return AxisOperator(operator.inputs, tuple(map(tuple, rows)))


def refused(form: AxisOperator | Factorization, want: AxisOperator = CONVOLUTION) -> str:
    with pytest.raises(NotEqual) as raised:
        certify("form", want, form)
    return str(raised.value)


def test_what_is_equal_is_certified() -> None:
    certificate = certify("rows: F(4,3) of convolution k3 p1 on 8 pixels", CONVOLUTION, F43)
    assert certificate.entries == 3 * 8 * 8
    assert str(certificate) == (
        "rows: F(4,3) of convolution k3 p1 on 8 pixels equals it exactly (192 entries)"
    )
    timed = dataclasses.replace(certificate, seconds=0.0042)
    assert str(timed).endswith("exactly (192 entries, 4 ms)")
    assert certify("itself", CONVOLUTION, CONVOLUTION).entries == 192


def test_any_changed_entry_of_b_is_found() -> None:
    mutants = [dataclasses.replace(F43, before=b) for b in changed_entries(F43.before)]
    assert len(mutants) > 100
    for mutant in mutants:
        assert "form: T[" in refused(mutant)


def test_any_changed_entry_of_a_is_found() -> None:
    mutants = [dataclasses.replace(F43, after=a) for a in changed_entries(F43.after)]
    assert len(mutants) > 80
    for mutant in mutants:
        assert "form: T[" in refused(mutant)


def test_any_changed_entry_of_g_is_found() -> None:
    for r, row in enumerate(F43.weights):
        for k, g in enumerate(row):
            for other in (g + Fraction(1, 10**9), -g, g * 2):
                if other != g:
                    kernel = (*row[:k], other, *row[k + 1 :])
                    weights = (*F43.weights[:r], kernel, *F43.weights[r + 1 :])
                    assert f"form: T[{k}, " in refused(dataclasses.replace(F43, weights=weights))


@pytest.mark.parametrize("tile", range(F43.before.outputs))
def test_a_missing_tile_is_found(tile: int) -> None:
    rows = tuple((*row[:tile], (), *row[tile + 1 :]) for row in F43.before.rows)
    refused(dataclasses.replace(F43, before=AxisOperator(8, rows)))


def test_swapped_products_are_found() -> None:
    rows = F43.before.rows
    refused(dataclasses.replace(F43, before=AxisOperator(8, (rows[1], rows[0], *rows[2:]))))


LAYERS = [
    (transposed_convolution(9, 4, stride=2, pads=(1, 1)), transposed_phases(4, 2, 1, (1, 1))),
    (
        transposed_convolution(9, 5, stride=3, dilation=2, pads=(2, 1), output_padding=2),
        transposed_phases(5, 3, 2, (2, 1), 2),
    ),
    (
        convolution(18, 3, pads=(1, 1)).after(resize(9, scale=2)),
        nearest_phases(3, 2, (1, 1)),
    ),
    (
        convolution(27, 5, stride=2, dilation=2, pads=(4, 3)).after(resize(9, scale=3)),
        nearest_phases(5, 3, (4, 3), 2, 2),
    ),
    (convolution(19, 5, stride=2, pads=(2, 2)), strided_phases(5, 2, (2, 2))),
    (convolution(19, 3, dilation=4, pads=(4, 4)), dilated_phases(3, 4, (4, 4))),
]


def wrong_phases(phases: tuple[Phase, ...]) -> Iterator[tuple[Phase, ...]]:
    """One human mistake in one of the phases."""
    for n, phase in enumerate(phases):
        (begin, end), (first, *others) = phase.pads, phase.taps
        mistakes = [
            {"pads": (begin + 1, end)},
            {"pads": (begin - 1, end)},
            {"pads": (begin + 1, end - 1)},
            {"pads": (begin, end + phase.stride)},
            {"pads": (begin, end - phase.stride)},
            {"first": phase.first + 1},
            {"step": phase.step + 1},
            {"taps": (first[::-1], *others)}
            if first != first[::-1]
            else {"first": phase.first + 2},
            {"taps": (tuple(2 * s for s in first), *others)},
            {"stride": phase.stride + 1},
        ]
        for mistake in mistakes:
            yield (*phases[:n], dataclasses.replace(phase, **mistake), *phases[n + 1 :])  # type: ignore
        yield (*phases[:n], *phases[n + 1 :])
        yield (*phases, phase)


@pytest.mark.parametrize(("want", "phases"), LAYERS)
def test_a_wrong_phase_is_found(want: AxisOperator, phases: tuple[Phase, ...]) -> None:
    certify("right", want, phases_factorization(phases, want.inputs, want.outputs))
    for wrong in wrong_phases(phases):
        if wrong:
            refused(phases_factorization(wrong, want.inputs, want.outputs), want)
            refused(tiled(wrong, want.inputs, want.outputs, 2), want)


def test_the_message_names_the_first_entry_that_differs() -> None:
    halved = with_row(CONVOLUTION, 1, 5, ((5, Fraction(1, 2)),))
    assert refused(halved) == "form: T[1, 5, 5] is 1/2, not 1"
    assert refused(with_row(CONVOLUTION, 2, 0, ())) == "form: T[2, 0, 1] is 0, not 1"
    moved = with_row(CONVOLUTION, 2, 0, ((3, Fraction(1)),))
    assert refused(moved) == "form: T[2, 0, 1] is 0, not 1"


@pytest.mark.parametrize(
    ("form", "shape"),
    [
        (convolution(8, 5, pads=(2, 2)), "5 x 8 x 8"),
        (convolution(8, 3, pads=(1, 2)), "3 x 9 x 8"),
        (convolution(9, 3, pads=(1, 0)), "3 x 8 x 9"),
        (by_taps(convolution(8, 3, pads=(0, 1))), "3 x 7 x 8"),
    ],
)
def test_another_size_is_not_equal(form: AxisOperator | Factorization, shape: str) -> None:
    assert refused(form) == f"form: {shape} taps, outputs and inputs, not 3 x 8 x 8"


def upsampled(inputs: int) -> AxisOperator:
    return convolution(2 * inputs, 3, pads=(1, 1)).after(resize(inputs, scale=2))


def by_phases(inputs: int) -> Factorization:
    return phases_factorization(nearest_phases(3, 2, (1, 1)), inputs, 2 * inputs)


def test_all_sizes_are_certified_by_the_small_ones() -> None:
    certificate = certify_all_sizes("nearest x2 and convolution k3 p1", upsampled, by_phases, 1, 2)
    assert certificate == Certificate(
        "nearest x2 and convolution k3 p1", sum(3 * 2 * n * n for n in range(1, 8)), (1, 7)
    )
    assert str(certificate) == (
        "nearest x2 and convolution k3 p1 equals it exactly "
        "(840 entries of sizes 1 to 7, which prove all others)"
    )
    certify("a large one", upsampled(100), by_phases(100))


@pytest.mark.parametrize(
    ("stride", "dilation", "pads"),
    [(2, 1, (1, 1)), (3, 2, (5, 0)), (2, 2, (0, 4)), (4, 3, (-1, 9))],
)
def test_every_geometry_at_all_sizes(stride: int, dilation: int, pads: tuple[int, int]) -> None:
    phases = strided_phases(3, stride, pads, dilation)

    def convolved(inputs: int) -> AxisOperator:
        return convolution(inputs, 3, stride=stride, dilation=dilation, pads=pads)

    def split(inputs: int) -> Factorization:
        return phases_factorization(phases, inputs, convolved(inputs).outputs)

    certify_all_sizes("strided", convolved, split, stride, 3 * dilation)


def test_a_mistake_at_one_size_is_found() -> None:
    def cut(inputs: int) -> AxisOperator:
        return convolution(inputs, 3, pads=(1, 1))

    def at_five(inputs: int) -> AxisOperator:
        return convolution(inputs, 3, pads=(1, 1) if inputs != 5 else (2, 0))

    with pytest.raises(NotEqual, match=r"wrong, 5 pixels: T\[0, 1, 0\] is 0, not 1"):
        certify_all_sizes("wrong", cut, at_five, 1, 2)


@pytest.mark.parametrize(
    ("family", "period", "reach"),
    [
        # Interpolated between the ends: every coordinate changes with the size.
        (lambda n: resize(n, 2 * n, mode="linear", coordinates="align_corners"), 1, 3),
        # Padding that copies from further than any reach.
        (lambda n: pad(n, 2, 2, "wrap"), 1, 3),
        # A stride of two pixels has a period of two.
        (lambda n: convolution(n, 3, stride=2), 1, 3),
        # The border is felt further than one pixel from it; here there even is no output.
        (lambda n: convolution(n, 5, dilation=2, pads=(4, 4)), 1, 1),
        (lambda n: convolution(n, 5, dilation=2), 1, 1),
        # Even sizes repeat, odd ones do not.
        (lambda n: pad(n, 2, 2, "wrap" if n % 2 else "constant"), 2, 3),
        # Fewer outputs of more pixels.
        (lambda n: crop(20, n, 0), 1, 2),
    ],
)
def test_layers_that_do_not_repeat_are_refused(
    family: Callable[[int], AxisOperator], period: int, reach: int
) -> None:
    with pytest.raises(ValueError, match="more in the middle; is the period"):
        certify_all_sizes("family", family, family, period, reach)


def test_tiles_that_nobody_makes_are_missed() -> None:
    fewer = AxisOperator(8, tuple(rows[:-1] for rows in F43.before.rows))
    read_by_all = dataclasses.replace(F43, before=fewer)
    assert "1 tiles are made and 2 are read" in refused(read_by_all)
