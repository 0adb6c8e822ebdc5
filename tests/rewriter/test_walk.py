"""Walking upwards: whatever the order and grouping of operands, and never too far."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.rule import NoSite
from advconv_onnx.rewriter.walk import (
    factors,
    input_of,
    is_only_read_by,
    maker,
    only_reader,
    operands,
    producer,
    shifted,
    varying,
)
from tests.parsing import normal, parse

CONSTANTS = {
    "two": np.float32(2),
    "four": np.float32([4]),
    "six": np.full((1, 1, 1, 1), 6, np.float32),
    "wide": np.full((1, 1, 1, 1, 1), 6, np.float32),
    "zero": np.float32(0),
    "c": normal(3, 1, 1),
    "s": np.ones(3, np.float32),
}


def model_of(nodes: str, outputs: str = "float[N, 3, H, W] z") -> ir.Model:
    head = '<ir_version: 8, opset_import: ["" : 15, "other" : 1]> g'
    inputs = "float[N, 3, H, W] x, float[N, 3, H, W] y"
    return parse(f"{head} ({inputs}) => ({outputs}) {{ {nodes} }}", **CONSTANTS)


def last(nodes: str, outputs: str = "float[N, 3, H, W] z") -> ir.Node:
    """The last node of the graph."""
    return model_of(nodes, outputs).graph.node(-1)


def in_body(outside: str, inside: str) -> ir.Node:
    """The last node of a branch that reads values from outside."""
    model = model_of(
        f"""{outside} p = Constant <value = bool {{1}}> () z = If (p) <
            then_branch = t () => (float[] r) {{ {inside} }},
            else_branch = e () => (float[] s1) {{ s1 = Relu(x) }}>"""
    )
    (body, _) = (graph for graph in model.graphs() if graph is not model.graph)
    return body.node(-1)


def names(values: Any) -> list[str]:
    return [value.name for value in values]


def test_maker_finds_a_node_of_the_types_asked_for() -> None:
    z = last("a = Relu(x) z = Neg(a)")
    relu = z.inputs[0].producer()
    assert maker(z.inputs[0]) is maker(z.inputs[0], "Exp", "Relu") is relu
    assert maker(z.inputs[0], "Exp") is None
    assert maker(relu.inputs[0]) is None, "an input of the graph"
    assert maker(None) is None
    assert producer(z.inputs[0], "Relu") is relu
    for missing in (relu.inputs[0], None):
        with pytest.raises(NoSite):
            producer(missing, "Relu")


def test_maker_finds_no_node_of_another_domain() -> None:
    z = last("a = other.Relu(x) z = Neg(a)")
    assert maker(z.inputs[0], "Relu") is None


def test_maker_stays_in_the_graph_it_is_told() -> None:
    r = in_body("[out] a = Relu(x)", "r = Neg(a)")
    assert maker(r.inputs[0], "Relu", graph=r.graph) is None
    assert maker(r.inputs[0], "Relu").name == "out"
    with pytest.raises(NoSite):
        producer(r.inputs[0], graph=r.graph)
    inner = in_body("", "a = Relu(x) r = Neg(a)")
    assert producer(inner.inputs[0], graph=inner.graph).op_type == "Relu"


def test_inputs_and_operands() -> None:
    clip = last("z = Clip(x, , two)")
    inputs = [input_of(clip, index) for index in range(4)]
    assert [value.name if value else None for value in inputs] == ["x", None, "two", None]
    assert [names(pair) for pair in operands(last("z = Sub(x, y)"))] == [["x", "y"], ["y", "x"]]


@pytest.mark.parametrize(
    ("nodes", "outputs", "reader"),
    [
        ("a = Relu(x) [r] z = Neg(a)", "", "r"),
        ("a = Relu(x) [r] z = Mul(a, a)", "", "r"),
        ("a = Relu(x) [q] b = Exp(a) [r] z = Neg(a)", ", float[N, 3, H, W] b", None),
        ("a = Relu(x) [r] z = Neg(a)", ", float[N, 3, H, W] a", None),
        ("a = Relu(x) z = Neg(x)", "", None),
    ],
)
def test_the_only_reader(nodes: str, outputs: str, reader: str | None) -> None:
    graph = model_of(nodes, f"float[N, 3, H, W] z{outputs}").graph
    a, z = graph.node(0).outputs[0], graph.node(-1)
    found = only_reader(a)
    assert (found and found.name) == reader
    assert is_only_read_by(a, z) == (not outputs), "nobody is no other reader"


def test_a_reader_in_a_body_is_a_reader() -> None:
    r = in_body("a = Relu(x) [out] b = Exp(a)", "r = Neg(a)")
    (a,) = r.inputs
    assert only_reader(a) is None
    assert not is_only_read_by(a, r)


@pytest.mark.parametrize(
    "nodes",
    [
        "z = Add(x, c)",
        "z = Add(c, x)",
        "z = Sub(c, x)",
        "z = BatchNormalization(x, s, s, s, s)",
        "v = Neg(s) z = BatchNormalization(x, v, s, s, s)",
    ],
)
def test_the_varying_operand(nodes: str) -> None:
    assert varying(last(nodes)).name == "x"


@pytest.mark.parametrize("nodes", ["z = Add(x, y)", "z = Add(x, x)", "z = Add(c, two)"])
def test_none_or_two_varying_operands_are_no_site(nodes: str) -> None:
    with pytest.raises(NoSite):
        varying(last(nodes))


@pytest.mark.parametrize(
    ("nodes", "values", "scale", "count"),
    [
        ("z = Mul(x, y)", "x y", 1, 1),
        ("a = Mul(x, y) z = Div(a, six)", "x y", 1 / 6, 2),
        ("a = Div(x, six) z = Mul(a, y)", "x y", 1 / 6, 2),
        ("a = Div(y, six) z = Mul(x, a)", "x y", 1 / 6, 2),
        ("a = Mul(two, x) z = Mul(y, a)", "x y", 2, 2),
        ("a = Mul(x, two) b = Div(y, four) z = Mul(a, b)", "x y", 1 / 2, 3),
        ("a = Mul(x, two) b = Mul(a, four) d = Div(b, six) z = Mul(d, y)", "x y", 8 / 6, 4),
        ("a = Exp(x) b = Mul(a, y) z = Mul(b, x)", "a x y", 1, 2),
        ("z = Div(x, two)", "x", 1 / 2, 1),
        ("z = Mul(x, zero)", "x", 0, 1),
    ],
)
def test_factors_in_any_order_and_grouping(
    nodes: str, values: str, scale: float, count: int
) -> None:
    root = last(nodes)
    found = factors(root)
    assert " ".join(sorted(names(found.values))) == values
    assert found.scale == pytest.approx(scale, rel=1e-12)
    assert len(found.nodes) == len(set(found.nodes)) == count
    assert found.nodes[-1] is root
    order = list(root.graph)
    assert sorted(found.nodes, key=order.index)[-1] is root


def test_a_square_counts_its_factor_twice_and_its_node_once() -> None:
    found = factors(last("a = Mul(x, two) z = Mul(a, a)"))
    assert names(found.values) == ["x", "x"]
    assert found.scale == 4
    assert [node.op_type for node in found.nodes] == ["Mul", "Mul"]


@pytest.mark.parametrize(
    ("nodes", "values"),
    [
        ("z = Mul(x, c)", "c x"),
        ("z = Mul(x, wide)", "wide x"),
        ("a = Mul(x, c) z = Mul(a, two)", "c x"),
        ("z = Div(x, y)", "z"),
        ("z = Div(two, x)", "z"),
        ("z = Div(x, zero)", "z"),
        ("z = Div(x, c)", "z"),
        ("a = Div(x, y) z = Mul(a, two)", "a"),
        ("a = Div(x, zero) z = Mul(a, y)", "a y"),
        ("a = other.Mul(x, two) z = Mul(a, y)", "a y"),
        ("a = Add(x, two) z = Mul(a, y)", "a y"),
    ],
)
def test_what_is_no_scalar_factor_ends_the_tree(nodes: str, values: str) -> None:
    assert " ".join(sorted(names(factors(last(nodes)).values))) == values


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ("a = Mul(x, two) b = Exp(a) z = Mul(a, y)", ", float[N, 3, H, W] b"),
        ("a = Mul(x, two) z = Mul(a, y)", ", float[N, 3, H, W] a"),
    ],
)
def test_a_product_that_others_read_ends_the_tree(nodes: str, outputs: str) -> None:
    found = factors(last(nodes, f"float[N, 3, H, W] z{outputs}"))
    assert names(found.values) == ["a", "y"]
    assert (found.scale, len(found.nodes)) == (1, 1)


def test_a_product_of_another_graph_ends_the_tree() -> None:
    found = factors(in_body("a = Mul(x, two)", "r = Mul(a, y)"))
    assert names(found.values) == ["a", "y"]
    assert (found.scale, len(found.nodes)) == (1, 1)


@pytest.mark.parametrize(
    ("nodes", "outputs", "goes_on"),
    [
        ("a = Mul(x, y) z = Mul(a, two)", "", True),
        ("a = Mul(x, y) z = Mul(two, a)", "", True),
        ("a = Mul(x, y) z = Div(a, six)", "", True),
        ("a = Mul(x, y) z = Div(two, a)", "", False),
        ("a = Mul(x, y) z = Div(a, zero)", "", False),
        ("a = Mul(x, y) z = Mul(a, c)", "", False),
        ("a = Mul(x, y) z = Mul(a, x)", "", False),
        ("a = Mul(x, y) z = other.Mul(a, two)", "", False),
        ("a = Mul(x, y) z = Mul(a, two)", ", float[N, 3, H, W] a", False),
        ("a = Mul(x, y) b = Exp(a) z = Mul(a, two)", ", float[N, 3, H, W] b", False),
    ],
)
def test_a_product_ends_behind_its_last_scaling(nodes: str, outputs: str, goes_on: bool) -> None:
    root = model_of(nodes, f"float[N, 3, H, W] z{outputs}").graph.node(0)
    if goes_on:
        with pytest.raises(NoSite):
            factors(root)
    else:
        assert names(factors(root).values) == ["x", "y"]


def test_a_scaling_in_a_body_is_another_product() -> None:
    r = in_body("a = Mul(x, y)", "r = Mul(a, two)")
    assert names(factors(r.inputs[0].producer()).values) == ["x", "y"]


@pytest.mark.parametrize(
    ("nodes", "shift"),
    [
        ("z = Add(x, two)", 2),
        ("z = Add(four, x)", 4),
        ("z = Add(x, six)", 6),
        ("z = Sub(x, two)", -2),
        ("z = Add(x, zero)", 0),
    ],
)
def test_a_shift_either_way(nodes: str, shift: float) -> None:
    root = last(nodes)
    x, number, node = shifted(root.outputs[0], root.graph)
    assert (x.name, number) == ("x", shift)
    assert node is root


@pytest.mark.parametrize(
    "nodes",
    [
        "z = Sub(two, x)",
        "z = Add(x, y)",
        "z = Add(x, c)",
        "z = Add(x, wide)",
        "z = Add(two, two)",
        "z = Mul(x, two)",
        "z = other.Add(x, two)",
    ],
)
def test_what_is_no_shift_is_no_site(nodes: str) -> None:
    with pytest.raises(NoSite):
        shifted(last(nodes).outputs[0])


def test_a_shift_of_another_graph_is_no_site() -> None:
    r = in_body("a = Add(x, two)", "r = Neg(a)")
    assert shifted(r.inputs[0])[1] == 2
    with pytest.raises(NoSite):
        shifted(r.inputs[0], r.graph)


def test_of_a_tensor_of_unknown_rank_only_scalars_and_vectors_of_one_are_factors() -> None:
    """A constant of rank 4 might widen it."""
    for constant, scale in (("two", 2), ("four", 4), ("six", 1)):
        assert factors(last(f"a = other.F(x) z = Mul(a, {constant})")).scale == scale
