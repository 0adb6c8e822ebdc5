"""Phases: the classes of a layer's outputs are small convolutions, at every size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from advconv_onnx.algebra.phases import (
    Phase,
    dilated_phases,
    nearest_phases,
    strided_phases,
    transposed_phases,
)

sweep = settings(max_examples=150, deadline=None, derandomize=True)
sizes, kernels, strides = st.integers(1, 40), st.integers(1, 7), st.integers(1, 4)
dilations = st.integers(1, 24)
pads = st.tuples(st.integers(-2, 30), st.integers(-2, 30))


def summed(phases: tuple[Phase, ...], inputs: int, outputs: int) -> NDArray[np.float64]:
    """T[k, o, i] by the definition of a phase; every phase must have its class's outputs."""
    operator = np.zeros((len(phases[0].taps[0]), outputs, inputs))
    for phase in phases:
        small = phase.operator(inputs)
        places = range(phase.first, outputs, phase.step)
        assert small.outputs == phase.outputs(inputs) == len(places)
        taps = np.array(phase.taps, np.float64)
        operator[:, phase.first :: phase.step] += np.einsum("jk,jqi->kqi", taps, small.dense())
    return operator


@sweep
@given(sizes, kernels, strides, dilations, pads)
def test_strided_and_dilated(
    inputs: int, taps: int, stride: int, dilation: int, around: tuple[int, int]
) -> None:
    outputs = max(0, (inputs + sum(around) - (taps - 1) * dilation - 1) // stride + 1)
    k, o, i = np.ogrid[:taps, :outputs, :inputs]
    want = i == o * stride + k * dilation - around[0]
    phases = strided_phases(taps, stride, around, dilation)
    assert all(phase.stride == phase.dilation for phase in phases)
    np.testing.assert_array_equal(summed(phases, inputs, outputs), want)
    if stride == 1:
        assert phases == dilated_phases(taps, dilation, around)


@sweep
@given(sizes, kernels, strides, dilations, pads, st.integers(0, 23))
def test_transposed(
    inputs: int, taps: int, stride: int, dilation: int, around: tuple[int, int], extra: int
) -> None:
    extra %= max(stride, dilation)
    outputs = max(0, (inputs - 1) * stride + (taps - 1) * dilation + 1 + extra - sum(around))
    k, o, i = np.ogrid[:taps, :outputs, :inputs]
    want = o == i * stride + k * dilation - around[0]
    phases = transposed_phases(taps, stride, dilation, around, extra)
    np.testing.assert_array_equal(summed(phases, inputs, outputs), want)


@sweep
@given(sizes, kernels, st.integers(2, 4), strides, dilations, pads)
def test_nearest(
    inputs: int, taps: int, scale: int, stride: int, dilation: int, around: tuple[int, int]
) -> None:
    outputs = max(0, (inputs * scale + sum(around) - (taps - 1) * dilation - 1) // stride + 1)
    k, o, i = np.ogrid[:taps, :outputs, :inputs]
    want = i == (o * stride + k * dilation - around[0]) // scale
    phases = nearest_phases(taps, scale, around, stride, dilation)
    np.testing.assert_array_equal(summed(phases, inputs, outputs), want)


@sweep
@given(sizes, kernels, strides, st.integers(1, 6), pads, st.integers(2, 4))
def test_units_are_the_same_phases(
    inputs: int, taps: int, stride: int, dilation: int, around: tuple[int, int], scale: int
) -> None:
    outputs = max(0, (inputs * scale + sum(around) - (taps - 1) * dilation - 1) // stride + 1)
    phases = nearest_phases(taps, scale, around, stride, dilation)
    units = tuple(unit for phase in phases for unit in phase.units())
    assert all(unit.stride == unit.dilation for unit in units)
    want = summed(phases, inputs, outputs)
    np.testing.assert_array_equal(summed(units, inputs, outputs), want)


@pytest.mark.parametrize(
    ("phases", "taps"),
    [
        (nearest_phases(3, 2, (1, 1)), [2, 2]),
        (nearest_phases(3, 3, (1, 1)), [2, 1, 2]),
        (nearest_phases(3, 2, (2, 2), dilation=2), [3, 3]),
        (nearest_phases(3, 2, (1, 1), stride=2), [2]),
        (transposed_phases(4, 2, 1, (1, 1)), [2, 2]),
        (transposed_phases(3, 2, 1, (1, 1), 1), [1, 2]),
        (transposed_phases(3, 2, 2, (0, 0)), [3, 1]),
        (transposed_phases(2, 3, 1, (0, 0)), [1, 1, 1]),
        (strided_phases(7, 2, (3, 3)), [4, 3]),
        (strided_phases(3, 2, (2, 2), 2), [3]),
        (dilated_phases(3, 3, (3, 3)), [3, 3, 3]),
        (dilated_phases(1, 5, (0, 0)), [1]),
    ],
)
def test_kernels_are_as_small_as_they_can_be(phases: tuple[Phase, ...], taps: list[int]) -> None:
    assert [len(phase.taps) for phase in phases] == taps


def test_an_output_that_no_tap_reaches_has_a_phase_of_zeros() -> None:
    *_, last = transposed_phases(2, 3, 1, (0, 0))
    assert not any(map(any, last.taps))
    assert last.outputs(5) == 4  # of 14 outputs: 2, 5, 8, 11
