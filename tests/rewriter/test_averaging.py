"""How an AveragePool is read: its operator is that of the float64 reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from advconv_onnx.algebra import axis as algebra
from advconv_onnx.algebra.certificate import NotEqual, certify
from advconv_onnx.rewriter.averaging import Averaging, certify_constant, combined
from advconv_onnx.rewriter.rule import Refused
from advconv_onnx.runtime.kernels import Window, pool_average


def pool(**attributes: Any) -> ir.Node:
    return ir.node("AveragePool", [ir.Value(name="x")], attributes)


@given(st.data())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_operator_is_that_of_the_reference(data: st.DataObject) -> None:
    kernel, stride = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    pads = [data.draw(st.integers(0, kernel - 1)) for _ in range(2)]
    auto_pad = data.draw(st.sampled_from(("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")))
    ceil, counts = data.draw(st.booleans()), data.draw(st.booleans())
    size = data.draw(st.integers(kernel, 12))
    node = pool(
        kernel_shape=[kernel],
        strides=[stride],
        ceil_mode=int(ceil),
        count_include_pad=int(counts),
        **({"pads": pads} if auto_pad == "NOTSET" else {"auto_pad": auto_pad}),
    )
    try:
        averaging = Averaging.of(node)
    except Refused:
        assume(False)
    window = Window.from_attributes((size,), [kernel], [stride], [1], pads, auto_pad)
    want = pool_average(
        np.eye(size)[:, None], window, ceil_mode=ceil, count_include_pad=counts
    ).squeeze(1)
    got = averaging.operator(0, size).dense()[0].T
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-14, atol=0)
    sums = got.sum(axis=0)
    assert averaging.averages_zeros or np.allclose(sums, 1, rtol=1e-14)
    assert averaging.is_padded or np.count_nonzero(got) == kernel * len(sums)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"kernel_shape": [2], "dilations": [2]}, "dilated"),
        ({"kernel_shape": [2], "pads": [2, 0]}, "no pixel"),
        ({"kernel_shape": [2], "pads": [0, 2]}, "no pixel"),
        ({"kernel_shape": [2], "strides": [3], "ceil_mode": 1}, "no pixel"),
        ({"kernel_shape": [2], "auto_pad": "SAME_LOWER", "ceil_mode": 1}, "rounds"),
        ({"kernel_shape": [2], "pads": [1, 0], "count_include_pad": 1, "ceil_mode": 1}, "rounds"),
    ],
)
def test_refused(attributes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        Averaging.of(pool(**attributes))


def test_a_constant_passes_a_mean_of_pixels_but_not_of_zeros() -> None:
    pads = {"kernel_shape": [3], "pads": [1, 1]}
    pixels = Averaging.of(pool(**pads))
    proved = certify_constant("flat", lambda size: pixels.operator(0, size), range(1, 6))
    assert proved.sizes == (1, 5)
    assert proved.entries == 1 + 2 + 3 + 4 + 5
    zeros = Averaging.of(pool(**pads, count_include_pad=1))
    with pytest.raises(NotEqual, match="flat, 4 pixels"):
        certify_constant("flat", lambda size: zeros.operator(0, size), (4,))


def test_taps_are_combined() -> None:
    sums = combined(((1, 0), (1, 1), (0, 1)), algebra.convolution(7, 3))  # type: ignore[arg-type]
    pairs = algebra.slide(6, 2).after(algebra.slide(7, 2))  # two taps of two
    want = algebra.AxisOperator(
        7,
        tuple(
            tuple(tuple(sorted(a + b)) for a, b in zip(*pairs.rows[k::2], strict=True))
            for k in range(2)
        ),
    )
    certify("both", want, sums)
