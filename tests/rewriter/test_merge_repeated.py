"""Repeated expressions, inside and across bodies."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import MERGED_NAMES
from advconv_onnx.rewriter.merge_repeated import MergeRepeated
from tests.parsing import normal, parse
from tests.rewriter.bodies import applied, assert_same, operators

HEADER = '<ir_version: 8, opset_import: ["" : 17]> '
X = normal(3, 4)


def merged(text: str, **weights: np.ndarray) -> tuple[ir.Model, ir.Model]:
    model = parse(HEADER + text, **weights)
    return model, applied(MergeRepeated(), model)


def test_chains_become_one_and_the_node_that_stays_names_both() -> None:
    model, result = merged(
        "g (float[3, 4] x) => (float[3, 4] y)"
        "{ [first] a = Exp(x) [second] b = Exp(x) c = Neg(a) d = Neg(b) y = Mul(c, d) }"
    )
    assert operators(result) == {"Exp": 1, "Neg": 1, "Mul": 1}
    assert result.graph.node(0).metadata_props[MERGED_NAMES] == "first,second"
    assert_same(model, result, x=X)


def test_different_attributes_inputs_or_wanted_outputs_stay_apart() -> None:
    model, result = merged(
        "g (float[3, 4] x) => (float[M, N] y, float[3, 4] z, int64[3, 1] j, float[4, 4] t) {"
        "  a = Transpose <perm = [1, 0]> (x) b = Transpose <perm = [0, 1]> (x) t = MatMul(a, b)"
        "  c = Softmax <axis = 0> (b) d = Softmax <axis = 1> (b)"
        "  e = Sub(c, d) f = Sub(d, c) z = Sub(e, f)"
        "  g, j = TopK <axis = 1> (z, k) h = Neg(g) l, l2 = TopK <axis = 1, largest = 0> (z, k)"
        "  o = Concat <axis = 0> (h, l) y = MatMul(o, p) }",
        k=np.array([1]), p=np.ones((1, 2), np.float32),
    )  # fmt: skip
    assert operators(result) == operators(model)
    assert_same(model, result, x=X)


def test_a_body_reuses_what_was_computed_around_it_but_not_the_reverse() -> None:
    model, result = merged(
        "g (float[3, 4] x, bool p) => (float[3, 4] y, float[3, 4] z) {"
        "  a = Exp(x)"
        "  y = If (p) <then_branch = t () => (float[3, 4] u)"
        "    { b = Exp(x) c = Neg(b) d = Sin(x) e = Mul(c, d) u = Add(e, d) },"
        "    else_branch = e () => (float[3, 4] v) { f = Exp(x) g = Sin(x) v = Sub(f, g) }>"
        "  h = Sin(x) z = Mul(h, a) }"
    )
    assert operators(result)["Exp"] == 1
    assert operators(result)["Sin"] == 3, "the branches do not see each other, nor what follows"
    for p in (True, False):
        assert_same(model, result, x=X, p=np.array(p))


def test_outputs_of_graphs_and_bodies_stay_outputs_of_their_own() -> None:
    model, result = merged(
        "g (float[3, 4] x, bool p) => (float[3, 4] y, float[3, 4] z, float[3, 4] w) {"
        "  a = Exp(x) y = Exp(x) z = Exp(x)"
        "  w = If (p) <then_branch = t () => (float[3, 4] u) { u = Exp(x) },"
        "              else_branch = e () => (float[3, 4] v) { v = Neg(a) }> }"
    )
    assert [value.name for value in result.graph.outputs] == ["y", "z", "w"]
    assert operators(result)["Exp"] == 1
    for p in (True, False):
        assert_same(model, result, x=X, p=np.array(p))


@pytest.mark.parametrize(
    "operator",
    ["RandomNormalLike(x)", "Bernoulli(x)", "Dropout(x, half, yes)", "some.Operator(x)"],
)
def test_what_differs_from_run_to_run_is_not_merged(operator: str) -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["" : 17, "some" : 1]> g (float[3, 4] x) => (float[3, 4] y)'
        f"{{ a = {operator} b = {operator} y = Sub(a, b) }}",
        half=np.array(0.5, np.float32), yes=np.array(True),
    )  # fmt: skip
    assert not MergeRepeated()(model).modified


def test_constants_in_attributes_are_compared() -> None:
    model, result = merged(
        "g (float[3, 4] x) => (float[3, 4] y) {"
        "  a = Constant <value = float[1] {2}> () b = Constant <value = float[1] {2}> ()"
        "  c = Constant <value = float[1] {3}> () d = Add(a, c) e = Add(b, d) y = Mul(x, e) }"
    )
    assert operators(result)["Constant"] == 2
    assert_same(model, result, x=X)


def test_attributes_that_are_types_or_bodies_are_not_compared() -> None:
    kind = onnx.helper.make_sequence_type_proto(onnx.helper.make_tensor_type_proto(1, [3]))
    empty = onnx.helper.make_optional_type_proto(kind)
    nodes = [
        *(onnx.helper.make_node("Optional", [], [name], type=kind) for name in "ab"),
        *(onnx.helper.make_node("OptionalHasElement", [n], [n * 2]) for n in "ab"),
        onnx.helper.make_node("And", ["aa", "bb"], ["y"]),
    ]
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.BOOL, [])
    graph = onnx.helper.make_graph(nodes, "g", [], [output])
    graph.value_info.extend(onnx.helper.make_value_info(name, empty) for name in "ab")
    opset = onnx.helper.make_opsetid("", 18)
    model = ir.from_proto(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8))
    assert not MergeRepeated()(model).modified
