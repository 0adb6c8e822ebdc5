"""Reading constants: what counts as one, and which broadcast as one value per channel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advconv_onnx.rewriter.constants import constant, per_channel, rank_of, required, scalar
from advconv_onnx.rewriter.rule import Refused
from tests.parsing import parse

MODEL = parse(
    '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3] x, float[2] listed) => (float[] z)'
    "{ y = Add(x, c) z = Add(y, listed) }",
    c=np.float32(2), listed=np.ones(2, np.float32),
)  # fmt: skip
X, LISTED = MODEL.graph.inputs
C, Y = MODEL.graph.node(0).inputs[1], MODEL.graph.node(0).outputs[0]


def value(array: object) -> ir.Value:
    return ir.Value(name="v", const_value=ir.tensor(np.asarray(array, np.float32)))


def test_only_initializers_that_no_input_can_replace_are_constants() -> None:
    assert constant(C) == 2
    for other in (None, X, Y, LISTED):
        assert constant(other) is None
        with pytest.raises(Refused, match="the weight is not constant"):
            required(other, "weight")


@pytest.mark.parametrize(
    ("array", "rank", "wanted"),
    [
        (2.5, 4, 2.5),
        ([2.5], 4, 2.5),
        ([[[2.5]]], 3, 2.5),
        ([[[2.5]]], 2, None),  # It would add an axis.
        ([2.5], None, 2.5),  # No tensor of rank 0 gets here: its one axis adds none.
        ([[2.5]], None, None),
        ([2.5, 2.5], 4, None),
    ],
)
def test_a_scalar_must_not_widen(array: object, rank: int | None, wanted: float | None) -> None:
    assert scalar(value(array), rank) == wanted


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), max_size=5).map(tuple),
    rank=st.integers(2, 4),
    channels=st.integers(1, 4),
)
def test_one_value_per_channel_is_what_numpy_broadcasts_along_the_channels(
    shape: tuple[int, ...], rank: int, channels: int
) -> None:
    """The judge: added to tensors of other sizes it must do what (1, C, 1, ...) does."""
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    try:
        values = per_channel(array, rank, channels)
    except Refused:
        values = None
    equal = []
    for size in (5, 7):
        x = np.zeros((size, channels, *range(size + 1, size + rank - 1)))
        try:
            got = x + array
        except ValueError:
            equal.append(False)
            continue
        same = values is not None and np.array_equal(got, x + values.reshape(-1, *[1] * (rank - 2)))
        equal.append(same if values is not None else got.shape == x.shape)
    assert all(equal) if values is not None else not all(equal)


def test_ranks() -> None:
    assert rank_of(X) == 2
    assert rank_of(ir.Value(name="unknown")) is None
