"""Zeros at the end of an image, counted when the layer is built or when the model runs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from advconv_onnx.errors import InputError
from advconv_onnx.layers import Builder, pad_like
from advconv_onnx.records import Shape
from advconv_onnx.runtime.session import open_session
from tests.parsing import normal


def padded(b: Builder, shape: Shape, like: Shape) -> ir.Model:
    y = pad_like(b, b.input("x", shape), b.input("like", like))
    b.output(y, "y")
    return b.model()


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("opset", [11, 24])
@pytest.mark.parametrize(
    ("shape", "like"),
    [
        ((2, 3, 5, 4), (2, 3, 6, 4)),
        (("N", 3, "H", "W"), ("N", 3, "A", "B")),
        ((None, 3, None, None), (None, 3, None, None)),
        (("N", 3, 5, "W"), ("N", 3, 6, "W")),
    ],
)
def test_equals_numpy(shape: Shape, like: Shape, opset: int, dtype: str) -> None:
    model = padded(Builder(opset=opset, dtype=dtype), shape, like)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    x = normal(2, 3, 5, 4).astype(dtype)
    # ONNX Runtime drops inputs that a graph does not read; where all sizes are fixed, that is one.
    feeds = {"x": x, "like": np.zeros((2, 3, 6, 4), dtype)}
    session = open_session(model)
    [y] = session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})
    np.testing.assert_array_equal(y, np.pad(x, [(0, 0), (0, 0), (0, 1), (0, 0)]))


@pytest.mark.parametrize("size", [(8, 8), ("8*H", "W")])
def test_nothing_is_added_where_sizes_are_known_to_be_equal(size: Shape) -> None:
    b = Builder()
    x = b.input("x", ("N", 3, *size))
    assert pad_like(b, x, b.input("like", ("N", 3, *size))) is x
    assert not len(b.model().graph)


@pytest.mark.parametrize(
    ("shape", "like"),
    [
        ((1, 3, 5, 4), (1, 3, 4, 4)),
        ((1, 3, "H", 5), (1, 3, "A", 4)),
        ((1, 3, 5, 4), (1, 4, 5, 4)),
        ((2, 3, 5, 4), (1, 3, 5, 4)),
        ((1, 3, 5, 4), (1, 3, 5, 4, 6)),
        ((1, 3), (1, 3)),
    ],
)
def test_refusals_leave_nothing_behind(shape: Shape, like: Shape) -> None:
    b = Builder()
    with pytest.raises(InputError, match=r"pad_like 'pad_like': .*(no size smaller|spatial axes)"):
        padded(b, shape, like)
    assert not len(b.model().graph)
    assert not b.model().graph.initializers
