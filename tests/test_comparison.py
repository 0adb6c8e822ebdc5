"""Kinds of convolution beside each other: the mission's claims as numbers."""

from __future__ import annotations

from fractions import Fraction

import pytest

from advconv_onnx.comparison import OPTIONS, compare
from advconv_onnx.errors import InputError
from advconv_onnx.records import Comparison


@pytest.fixture(scope="module")
def found() -> Comparison:
    return compare((1, 16, 9, 9), channels=32, group=4, rounds=1, threads=1)


def test_the_claims_hold(found: Comparison) -> None:
    macs = {a.name: Fraction(a.costs.costs.macs or 0) for a in found.alternatives}
    dense = macs["dense 3x3"]
    assert macs["separable 3x3"] / dense == Fraction(1, 32) + Fraction(1, 9)
    assert macs["4 groups 3x3"] / dense == Fraction(1, 4)
    assert macs["rate 2 3x3"] == dense
    assert macs["dense 5x5"] / dense == Fraction(25, 9)
    assert macs["pointwise"] / dense == Fraction(1, 9)


def test_what_they_cover(found: Comparison) -> None:
    covered = {a.name: a.costs.receptive_field for a in found.alternatives}
    assert covered["rate 2 3x3"] == covered["dense 5x5"] == (5, 5)
    assert covered["separable 3x3"] == (3, 3)


def test_all_are_timed_on_one_input(found: Comparison) -> None:
    names = [alternative.name for alternative in found.alternatives]
    assert [timing.name for timing in found.measurement.timings] == names
    assert found.measurement.shape == "x=1x16x9x9"
    assert found.device.threads == 1


def test_group_divides_the_channels_by_default() -> None:
    names = [a.name for a in compare((1, 8, 5), channels=12, rounds=1, threads=1).alternatives]
    assert "4 groups 3" in names


def test_what_is_dense_anyway_stands_there_once() -> None:
    found = compare((1, 7, 5), channels=4, rate=1, rounds=1, threads=1)
    names = [alternative.name for alternative in found.alternatives]
    assert names == ["dense 3", "separable 3", "depthwise 3", "pointwise", "rate 1 3"]


def test_options_are_those_of_the_function() -> None:
    defaults = compare.__kwdefaults__
    assert {name: defaults[name] for name in OPTIONS} == {n: d for n, (_, d) in OPTIONS.items()}


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (("N", 3, 8, 8), {}, "cannot compare layers on Nx3x8x8; fix batch, channels and sizes"),
        ((1, 3), {}, "cannot compare layers on 1x3"),
        ((1, 3, 8, 8), {"rate": 0}, "rate=0; give one integer from 1 up"),
        ((1, 6, 8, 8), {"group": 4}, "group=4 does not divide 6 input channels; use 1, 2, 3 or 6"),
    ],
)
def test_refuses(shape: tuple[int | str, ...], options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(shape, **options)
