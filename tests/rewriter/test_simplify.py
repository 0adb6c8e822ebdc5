"""Clean-up with other packages: what it keeps, and what happens when it fails, hangs or dies."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from advconv_onnx import model as files
from advconv_onnx.errors import CheckError
from advconv_onnx.rewriter import simplify
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session
from tests.parsing import normal, parse

W, X = normal(4, 3, 3, 3), normal(2, 3, 6, 7, seed=1)
LARGEST = 1 << 20


def run(model: ir.Model, **inputs: Any) -> np.ndarray:
    session = open_session(model, graph_optimizations=False, threads=1)
    (result, *_) = run_session(session, inputs or {"x": X}).values()
    return np.asarray(result)


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for _, graph in files.graphs(model) for node in graph]


# tidy

UNTIDY = """<ir_version: 8, opset_import: ["" : 17, "unused" : 1]>
    g (float[N, 3, H, W] x) => (float[] z) {
        k = Constant <value = float[1] {2}> ()
        l = Constant <value = float[1] {2}> ()
        a = Identity(x)
        b = Mul(a, k)
        d = Mul(x, l)
        e = Relu(d)
        unused = Neg(e)
        z = Add(b, e)
    }"""


def test_tidy_brings_a_graph_into_its_shortest_spelling() -> None:
    model = parse(UNTIDY)
    tidied, failures = simplify.tidy(model)
    assert not failures
    assert operators(tidied) == ["Mul", "Relu", "Add"]
    assert len(tidied.graph.initializers) == 1
    assert tidied.opset_imports == {"": 17}
    assert all(node.name for node in tidied.graph)
    assert len(model.graph) == 8, "the model given stays as it is"
    assert np.array_equal(run(tidied), run(model))


def test_tidy_keeps_the_names_of_inputs_and_outputs() -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y, float[N] z)'
        "{ y = Identity(x) z = Identity(w) }",
        w=normal(1),
    )
    tidied, _ = simplify.tidy(model)
    assert [value.name for value in tidied.graph.outputs] == ["y", "z"]
    onnx.checker.check_model(ir.to_proto(tidied), full_check=True)


def test_tidy_keeps_random_numbers_apart() -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1000] x) => (float[1000] z)'
        "{ a = RandomNormalLike(x) b = RandomNormalLike(x) z = Sub(a, b) }"
    )
    tidied, _ = simplify.tidy(model)
    assert run(tidied, x=np.zeros(1000, np.float32)).any()


def test_tidy_keeps_an_output_that_is_returned_under_two_names() -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y, float[N] z)'
        "{ y = Relu(x) z = Identity(y) }"
    )
    tidied, _ = simplify.tidy(model)
    assert [value.name for value in tidied.graph.outputs] == ["y", "z"]
    assert operators(tidied) == ["Relu", "Identity"]


BODY = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 3, H, W] x, bool p) => (float[] z) {
        y = Relu(x)
        i = Identity(y)
        z = If (p) <then_branch = t () => (float[] a) { a = Identity(y) },
                    else_branch = e () => (float[] b) { b = Neg(i) }>
    }"""


def test_an_identity_that_hands_an_outer_value_out_of_a_body_stays() -> None:
    model = parse(BODY)
    tidied, failures = simplify.tidy(model)
    assert not failures
    assert sorted(operators(tidied)) == ["Identity", "If", "Neg", "Relu"]
    onnx.checker.check_model(ir.to_proto(tidied), full_check=True)
    for choice in (True, False):
        inputs = {"x": X, "p": np.array(choice)}
        assert np.array_equal(run(tidied, **inputs), run(model, **inputs))


def test_an_identity_inside_a_body_or_a_function_goes() -> None:
    text = BODY.replace("a = Identity(y)", "h = Sigmoid(y) a = Identity(h)")
    tidied, _ = simplify.tidy(parse(text))
    assert sorted(operators(tidied)) == ["If", "Neg", "Relu", "Sigmoid"]
    onnx.checker.check_model(ir.to_proto(tidied), full_check=True)


class Failing(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        model.graph.remove(model.graph.node(-1))
        raise self.error

    error: Exception = IndexError("out of\nrange")


def test_a_pass_that_fails_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplify, "_TIDYING", (Failing(), *simplify._TIDYING))
    model, failures = simplify.tidy(parse(UNTIDY))
    assert failures == ("Failing: out of range",)
    assert operators(model) == ["Mul", "Relu", "Add"]


# fold_constants


def test_constant_expressions_are_computed_where_small() -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3, H, W] x) => (float[] z) {'
        "  a = Add(c, c) b = Mul(x, a) s = Shape(a) e = ConstantOfShape(big) f = ReduceMax(e) "
        "  h = Add(b, f) z = Identity(h) }",
        c=normal(3, 1, 1), big=np.array([1 << 11, 1 << 11]),
    )  # fmt: skip
    wanted = run(model)
    simplify.fold_constants(model, LARGEST)
    model, _ = simplify.tidy(model)
    assert "ConstantOfShape" in operators(model), "16 MB would bloat the file"
    assert operators(model).count("Add") == 1
    assert np.array_equal(run(model), wanted)


# raise_opset

OLD = """<ir_version: 4, opset_import: ["" : 9]>
    g (float[2, 3, 6, 7] x) => (float[] z, float[] v) {
        a = Conv(x, w)
        b = BatchNormalization(a, s, s, s, s)
        c = Clip <min = -0.5, max = 0.5> (b)
        d = Pad <pads = [0, 0, 1, 1, 0, 0, 1, 1]> (c)
        e = Upsample <mode = "nearest"> (d, scales)
        f = Squeeze <axes = [0]> (row)
        h = Mul(e, f)
        i = ReduceMean <axes = [2, 3], keepdims = 1> (h)
        j = Softmax <axis = 1> (i)
        z, rest = Split <axis = 1, split = [1, 3]> (j)
        v = Dropout(h)
    }"""


@pytest.mark.parametrize("target", [14, 20])
def test_a_raised_opset_keeps_results(target: int) -> None:
    model = parse(
        OLD, w=W, s=abs(normal(4)), row=normal(1, 1), scales=np.array([1, 1, 2, 2], np.float32)
    )
    before = ir.to_proto(model).SerializeToString()
    raised = simplify.raise_opset(model, target)
    assert ir.to_proto(model).SerializeToString() == before
    assert files.opset(raised) == target
    onnx.checker.check_model(ir.to_proto(raised), full_check=True)
    np.testing.assert_allclose(run(raised), run(model), rtol=1e-6)
    again = simplify.raise_opset(raised, 21)
    np.testing.assert_allclose(run(again), run(model), rtol=1e-6)


def test_an_operator_that_cannot_be_converted_is_an_error() -> None:
    model = parse(
        '<ir_version: 9, opset_import: ["" : 20]> g (float[N] x) => (float[N] z) { z = Gelu(x) }'
    )
    with pytest.raises(CheckError, match="cannot be converted"):
        simplify.raise_opset(model, 9)


def test_random_draws_are_neither_folded_nor_merged() -> None:
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 4] x) => (float[N, 4] y) {
            r = RandomNormalLike(x)
            q = RandomNormalLike(x)
            y = Sub(r, q)
        }"""
    )
    model = simplify.fold_constants(model, LARGEST)
    assert [node.op_type for node in model.graph].count("RandomNormalLike") == 2


def test_what_onnxscript_folds_wrongly_is_left_alone_and_the_rest_folds() -> None:
    model = parse(
        """<ir_version: 9, opset_import: ["" : 19]>
        g (float[4] x) => (float8e4m3fn[4] y, float[4] z)
        <float8e4m3fn[1] like = {1}, float[1] c = {2}> {
            y = CastLike <saturate = 0> (x, like)
            d = Neg(c)
            z = Mul(x, d)
        }"""
    )
    folded = simplify.fold_constants(model, LARGEST)
    assert sorted(operators(folded)) == ["CastLike", "Mul"]
    cast = next(node for node in folded.graph if node.op_type == "CastLike")
    assert (cast.domain, cast.attributes.get_int("saturate")) == ("", 0)
