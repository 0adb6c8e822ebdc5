"""The builder refuses an operator in a type exactly where ONNX Runtime has no kernel for it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import onnx_ir as ir
import pytest

from advconv_onnx import layers
from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.layers import Builder
from advconv_onnx.layers.activation import ACTIVATIONS
from advconv_onnx.layers.builder import (
    _ANY_TYPE,
    _FLOAT32_ONLY,
    DEFAULT_OPSET,
    DTYPES,
    NEWEST_OPSET,
    OLDEST_OPSET,
)
from advconv_onnx.runtime.session import open_session

Layer = Callable[[Builder, ir.Value], ir.Value]

EVERY: dict[str, Layer] = {
    **{kind: functools.partial(layers.activation, kind=kind) for kind in ACTIVATIONS},
    "batch_norm": layers.batch_norm,
    "conv": lambda b, x: layers.conv(b, x, 2),
    "conv_transpose": lambda b, x: layers.conv_transpose(b, x, 2),
    "upsample": lambda b, x: layers.upsample(b, x, size=9),
    "linear": lambda b, x: layers.linear(b, b.input("z", ("N", 2, 3, 3)), 3),
    "add": lambda b, x: layers.add(b, x, x),
    "concat": lambda b, x: layers.concat(b, [x, x]),
    "max_pool": lambda b, x: layers.max_pool(b, x, 2),
    "global_average_pool": layers.global_average_pool,
    "pad_like": lambda b, x: layers.pad_like(b, x, b.input("z", ("N", 2, 9, "W"))),
}
"""All that creates nodes, with all operators among them."""


def build(layer: Layer, opset: int, dtype: str, *, for_onnxruntime: bool) -> ir.Model:
    b = Builder(opset=opset, dtype=dtype, for_onnxruntime=for_onnxruntime)
    b.output(layer(b, b.input("x", ("N", 2, "H", "W"))))
    return b.model()


@pytest.mark.parametrize("opset", [OLDEST_OPSET, DEFAULT_OPSET, NEWEST_OPSET])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EVERY)
def test_refused_exactly_where_there_is_no_kernel(name: str, dtype: str, opset: int) -> None:
    try:
        build(EVERY[name], opset, dtype, for_onnxruntime=True)
        refused = ""
    except InputError as error:
        refused = str(error)
    model = build(EVERY[name], opset, dtype, for_onnxruntime=False)
    try:
        open_session(model, threads=1)
        assert not refused
    except CheckError:
        assert "use float32 or float16" in refused


def test_the_table_names_no_operator_that_no_layer_emits() -> None:
    emitted = {
        node.op_type
        for layer in EVERY.values()
        for opset in (OLDEST_OPSET, DEFAULT_OPSET)
        for node in build(layer, opset, "float32", for_onnxruntime=True).graph
    }
    emitted |= {"Squeeze", "Unsqueeze"}  # around a cubic upsampling of one axis
    assert emitted >= _FLOAT32_ONLY | _ANY_TYPE
