"""Operators read as one scale and one shift per channel, judged by ONNX's reference evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from advconv_onnx.rewriter.affine import Affine, batchnorm, elementwise
from advconv_onnx.rewriter.rule import NoSite, Refused
from tests.parsing import normal, parse

X = normal(2, 3, 4, 5)
STATISTICS = {
    "s": normal(3, seed=1),
    "b": normal(3, seed=2),
    "m": normal(3, seed=3),
    "v": abs(normal(3, seed=4)),
}


def model_of(node: str, opset: int = 15, **constants: Any) -> ir.Model:
    return parse(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[2, 3, 4, 5] x) => (float[] z)'
        f"{{ {node} }}",
        **{name: np.asarray(c, getattr(c, "dtype", np.float32)) for name, c in constants.items()},
    )


def assert_reads(model: ir.Model, affine: Affine) -> None:
    (wanted,) = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": X})
    assert affine.scale.shape == affine.shift.shape == (3,)
    assert affine.scale.dtype == affine.shift.dtype == np.float64
    got = X * affine.scale.reshape(3, 1, 1) + affine.shift.reshape(3, 1, 1)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def read(model: ir.Model) -> Affine:
    return elementwise(model.graph.node(-1), model.graph.inputs[0], 4, 3)


@pytest.mark.parametrize(
    "node",
    ["Add(x, c)", "Add(c, x)", "Sub(x, c)", "Sub(c, x)", "Mul(x, c)", "Mul(c, x)", "Div(x, c)"],
)
@pytest.mark.parametrize(
    "c", [np.float32(-2.5), normal(1), normal(3, 1, 1), normal(1, 3, 1, 1), normal(1, 1, 1, 1)]
)
def test_elementwise_operators(node: str, c: np.ndarray) -> None:
    model = model_of(f"z = {node}", c=c)
    assert_reads(model, read(model))


@pytest.mark.parametrize(
    ("node", "c", "reason"),
    [
        ("Div(c, x)", 2, "not affine"),
        ("Div(x, c)", [[[1]], [[0]], [[2]]], "the divisor has a zero"),
        ("Mul(x, c)", normal(3), "one value per channel"),
        ("Mul(x, c)", normal(4, 1), "one value per channel"),
        ("Mul(x, c)", normal(2, 1, 1, 1), "one value per channel"),
        ("Mul(x, c)", normal(1, 1, 1, 1, 1), "rank 5"),
        ("Pow(x, c)", 2, "not affine"),
        ("Mod <fmod = 1> (x, c)", 2, "not affine"),
    ],
)
def test_what_is_not_affine_is_refused(node: str, c: Any, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        read(model_of(f"z = {node}", c=c))


@pytest.mark.parametrize("node", ["y = Relu(x) z = Add(x, y)", "z = Add(x, x)", "z = Mul(c, x)"])
def test_no_float_constant_is_no_site(node: str) -> None:
    with pytest.raises(NoSite):
        read(model_of(node, c=np.int64(2)))


@pytest.mark.parametrize(
    ("attributes", "opset"), [("", 15), ("", 7), ("<epsilon = 0.25>", 15), ("<momentum = 0.1>", 9)]
)
def test_batchnorm(attributes: str, opset: int) -> None:
    node = f"z = BatchNormalization {attributes} (x, s, b, m, v)"
    affine = batchnorm(model_of(node, opset, **STATISTICS).graph.node(0))
    assert_reads(model_of(node, 15, **STATISTICS), affine)  # The evaluator errs on older ones.


@pytest.mark.parametrize(
    ("node", "opset", "changes", "reason"),
    [
        ("z = BatchNormalization <training_mode = 1> (x, s, b, m, v)", 15, {}, "training mode"),
        ("z, p, q = BatchNormalization <training_mode = 1> (x, s, b, m, v)", 15, {}, "training"),
        ("z, p, q, r, t = BatchNormalization (x, s, b, m, v)", 9, {}, "training"),
        ("z = BatchNormalization <spatial = 0> (x, s, b, m, v)", 7, {}, "per pixel"),
        ("y = Relu(s) z = BatchNormalization (x, y, b, m, v)", 15, {}, "scale is not constant"),
        ("y = Relu(s) z = BatchNormalization (x, s, b, m, y)", 15, {}, "variance is not constant"),
        ("z = BatchNormalization (x, s, b, m, v)", 15, {"v": [-1, 1, 1]}, "zero or negative"),
        (
            "z = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)",
            15,
            {"v": [0, 1, 1]},
            "zero or negative",
        ),
    ],
)
def test_other_batchnorms_are_refused(
    node: str, opset: int, changes: dict[str, Any], reason: str
) -> None:
    model = model_of(node, opset, **{**STATISTICS, **changes})
    with pytest.raises(Refused, match=reason):
        batchnorm(model.graph.node(-1))
