"""Local functions in the place of their calls: what is inlined computes the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from advconv_onnx import model as files
from advconv_onnx.rewriter import simplify
from advconv_onnx.rewriter.builder import MERGED_NAMES
from advconv_onnx.rewriter.inline_functions import InlineFunctions
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.reference import Reference
from advconv_onnx.runtime.session import open_session
from tests.parsing import normal

HEADER = '<ir_version: 10, opset_import: ["" : 18, "local" : 1]> '
X = normal(2, 3)


def read(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(HEADER + text))


def inlined(model: ir.Model) -> ir.Model:
    return InlineFunctions()(model.clone()).model


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for _, graph in files.graphs(model) for node in graph]


def assert_same(model: ir.Model, result: ir.Model) -> None:
    """In ONNX Runtime, for either value of a condition, names settled as every run settles them."""
    tidied, failures = simplify.tidy(result)
    assert not failures
    onnx.checker.check_model(ir.to_proto(tidied), full_check=True)
    for p in (True, False):
        inputs = {"x": X, "p": np.array(p)}
        wanted, found = (
            run_session(
                open_session(m, graph_optimizations=False),
                {v.name: inputs[v.name] for v in m.graph.inputs if v.name},
            )
            for m in (model, tidied)
        )
        assert list(wanted) == list(found)
        for name, array in wanted.items():
            assert np.array_equal(array, found[name])


NESTED = """g (float[N, 3] x, bool p) => (float[N, 3] y, float[N, 3] z, float[N, 3] w) {
    t = Neg(x)
    z, u = local.pair <alpha: float = 3.0> (x, t)
    k, y = local.pair (u, x)
    w = If (p) <
        then_branch = b1 () => (float[N, 3] q) { t2 = local.scaled <s = 2.0> (z) q = Add(t2, t) },
        else_branch = b2 () => (float[N, 3] r) { r, s = local.pair (t, k) }>
}
<opset_import: ["" : 18, "local" : 1], domain: "local">
pair <alpha: float = 1.0> (a, b) => (c, d) {
    d = Identity(a)
    t = local.scaled <s: float = @alpha> (b)
    c = Add(a, t)
}
<opset_import: ["" : 18], domain: "local">
scaled <s> (a) => (b) { k = Constant <value_float: float = @s> () t = Mul(a, k) b = Identity(t) }
"""


def test_nested_calls_attributes_defaults_bodies_and_names_that_collide() -> None:
    model = read(NESTED)
    result = inlined(model)
    assert not result.functions
    assert not {"pair", "scaled"} & set(operators(result))
    assert_same(model, result)


def test_an_operator_that_is_the_same_in_both_versions_is_inlined() -> None:
    """Sigmoid has two versions, of opsets 6 and 13."""
    text = "g (float[N, 3] x) => (float[N, 3] y) { y = local.f(x) } "
    body = '<opset_import: ["" : %d], domain: "local"> f (a) => (b) { b = Sigmoid(a) }'
    model = read(text + body % 13)
    result = inlined(model)
    assert operators(result) == ["Sigmoid"]
    assert result.opset_imports == {"": 18, "local": 1}
    assert_same(model, result)
    older = read(text + body % 12)
    assert operators(inlined(older)) == ["f", "Sigmoid"], "Sigmoid 13 is another operator"


def test_a_function_that_stays_keeps_what_it_calls() -> None:
    """``inner`` fits the model, but not ``outer``, into which it would be put."""
    model = read(
        "g (float[N, 3] x) => (float[N, 3] y) { t = local.outer(x) y = local.inner(t) }"
        '<opset_import: ["" : 12, "local" : 1], domain: "local">'
        "outer (a) => (b) { s = Softmax(a) b = local.inner(s) }"
        '<opset_import: ["" : 18], domain: "local"> inner (a) => (b) { b = Softmax(a) }'
    )
    result = inlined(model)
    assert operators(result) == ["outer", "inner", "Softmax", "inner", "Softmax"]


def test_a_function_in_a_domain_of_onnx_runtime_stays() -> None:
    model = read(
        "g (float[N, 3] x) => (float[N, 3] y) { y = com.microsoft.QuickGelu(x) }"
        '<opset_import: ["" : 18], domain: "com.microsoft">'
        "QuickGelu (a) => (b) { b = Relu(a) }"
    )
    model.opset_imports["com.microsoft"] = 1
    assert operators(inlined(model)) == ["QuickGelu", "Relu"]


def test_functions_with_attributes_of_graph_type_stay() -> None:
    model = read(
        "g (float[N, 3] x, bool p) => (float[N, 3] y) { y = local.choose <"
        "body = b () => (float[N, 3] q) { q = local.f(x) }> (p, x) }"
        '<opset_import: ["" : 18], domain: "local"> choose <body> (p, a) => (b) {'
        "b = If (p) <then_branch: graph = @body, else_branch: graph = @body> }"
        '<opset_import: ["" : 18], domain: "local"> f (a) => (b) { b = Relu(a) }'
    )
    assert set(inlined(model).functions) == set(model.functions)


def test_an_optional_input_that_a_call_leaves_out_stays_out() -> None:
    model = read(
        "g (float[N, 3] x) => (float[N, 3] y) { y = local.f(x) }"
        '<opset_import: ["" : 18], domain: "local"> f (a, b) => (c) { c = Clip(a, b, b) }'
    )
    (node,) = inlined(model).graph
    assert node.op_type == "Clip"
    assert [value and value.name for value in node.inputs] == ["x", None, None]


@pytest.mark.parametrize(
    ("outputs", "body"),
    [("c, a", "c = Neg(a)"), ("c, c", "c = Neg(a)"), ("a, a", "c = Neg(a)")],
)
def test_a_function_may_return_its_input_or_a_value_twice(outputs: str, body: str) -> None:
    """ONNX Runtime refuses such a function, so the float64 reference compares."""
    model = read(
        "g (float[N, 3] x) => (float[N, 3] y, float[N, 3] z) { y, z = local.f(x) }"
        f'<opset_import: ["" : 18], domain: "local"> f (a) => ({outputs}) {{ {body} }}'
    )
    result = inlined(model)
    assert not result.functions
    assert [value.name for value in result.graph.outputs] == ["y", "z"]
    assert [value.name for value in result.graph.inputs] == ["x"]
    wanted, found = (Reference(m).run({"x": X.astype(np.float64)}) for m in (model, result))
    assert all(np.array_equal(wanted[name], found[name]) for name in wanted)


@pytest.mark.parametrize("outputs", ["y", "y, ", ", y"])
def test_a_call_may_want_only_some_outputs(outputs: str) -> None:
    model = read(
        f"g (float[N, 3] x) => (float[N, 3] y) {{ {outputs} = local.f(x) }}"
        '<opset_import: ["" : 18], domain: "local"> '
        "f (a) => (b, c) { b = Relu(a) d = Neg(b) c = Add(d, b) }"
    )
    if outputs == ", y":
        model.graph.node(0).outputs[0].name = ""
    result, _ = simplify.tidy(inlined(model))
    wanted = np.maximum(X, 0) * (outputs != ", y")
    (found,) = Reference(result).run({"x": X.astype(np.float64)}).values()
    assert np.array_equal(found, wanted)


def test_nodes_carry_the_metadata_and_the_name_of_the_call() -> None:
    model = read(NESTED)
    call = next(node for node in model.graph if node.op_type == "pair")
    call.name = "block.1"
    call.metadata_props["origin"] = "layer 1"
    for function in model.functions.values():
        for node in function:
            node.name = f"inside_{node.op_type}"
    nodes = [n for n in inlined(model).graph if n.metadata_props.get("origin") == "layer 1"]
    assert sorted(node.op_type for node in nodes) == [
        "Add",
        "Constant",
        "Identity",
        "Identity",
        "Mul",
    ]
    assert {node.metadata_props[MERGED_NAMES] for node in nodes} == {"block.1"}


def test_tidy_inlines_and_an_unused_output_stays_unwanted() -> None:
    """Named, the outputs that nobody wants would make this BatchNormalization train."""
    model = ir.from_proto(
        onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 9]> g (float[N, 3, 4] x) => (float[N, 3, 4] y)'
            "<float[3] s = {1, 2, 3}> { y, , , , = BatchNormalization(x, s, s, s, s) }"
        )
    )
    (node,) = simplify.tidy(model)[0].graph
    assert [value.name or "" for value in node.outputs] == ["y", *[""] * (len(node.outputs) - 1)]
