"""Loops carry only what changes and what somebody reads."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx import model as files
from advconv_onnx.rewriter.drop_loop_state import DropLoopState
from tests.parsing import normal, parse
from tests.rewriter.bodies import applied, assert_same, operators

HEADER = '<ir_version: 8, opset_import: ["" : 17]> '
X = normal(2, 3)

CARRIED = (
    HEADER
    + """g (float[2, 3] x, int64 n) => (float[2, 3] y, float[2, 3] v) {
    y, v, u = Loop (n, , x, w, w) <body = b (int64 i, bool c, float[2, 3] a, float[2, 3] k,
                                           float[2, 3] l)
        => (bool d, float[2, 3] r, float[2, 3] m, float[2, 3] o) {
        d = Identity(c)
        s = Add(a, k)
        r = Mul(s, l)
        m = Identity(k)
        o = Identity(l)
    }>
}"""
)


def the_loop(model: ir.Model) -> ir.Node:
    (node,) = (node for node in model.graph if node.op_type in ("Loop", "Scan"))
    return node


@pytest.mark.parametrize("trips", [0, 1, 3])
def test_a_weight_that_is_handed_on_is_read_from_outside(trips: int) -> None:
    model = parse(CARRIED, w=normal(2, 3, seed=1))
    result = applied(DropLoopState(), model)
    loop = the_loop(result)
    assert [value and value.name for value in loop.inputs] == ["n", None, "x"]
    assert len(loop.outputs) == 1
    assert result.graph.initializers["w"].uses()
    assert_same(model, result, x=X, n=np.array(trips))


def test_names_inside_that_shadow_names_outside_stay_apart() -> None:
    """The state is called like the weight itself, and another like a value outside."""
    text = CARRIED.replace("float[2, 3] k", "float[2, 3] w").replace("(a, k)", "(a, w)")
    model = parse(text.replace("Identity(k)", "Identity(w)"), w=normal(2, 3, seed=1))
    result = applied(DropLoopState(), model)
    assert len(the_loop(result).inputs) == 3
    assert_same(model, result, x=X, n=np.array(2))


@pytest.mark.parametrize("trips", [0, 2])
def test_a_state_returned_in_two_places_is_read_from_outside_in_both(trips: int) -> None:
    """The second place swaps: what enters as ``a`` is ``k`` from the second iteration on."""
    model = parse(
        HEADER + "g (float[2, 3] x, int64 n) => (float[2, 3] y, float[2, 3] v) {"
        "  y, v = Loop (n, , x, w) <body = b (int64 i, bool c, float[2, 3] a, float[2, 3] k)"
        "  => (bool d, float[2, 3] k, float[2, 3] k) { d = Identity(c) }>"
        "}",
        w=normal(2, 3, seed=1),
    )
    result = applied(DropLoopState(), model)
    assert len(the_loop(result).outputs) == 1
    assert_same(model, result, x=X, n=np.array(trips))


def test_states_and_collected_outputs_that_nothing_reads_go() -> None:
    model = parse(
        HEADER + "g (float[2, 3] x) => (float[2, 3] y, float[N, 2, 3] q) {"
        "  y, unread, p, q = Loop (n, , x, x) <"
        "    body = b (int64 i, bool c, float[2, 3] a, float[2, 3] idle)"
        "    => (bool d, float[2, 3] r, float[2, 3] t, float[2, 3] e, float[2, 3] f) {"
        "    d = Identity(c) r = Neg(a) t = Exp(a) e = Sin(a) f = Cos(a) }>"
        "}",
        n=np.array(3),
    )
    result = applied(DropLoopState(), model)
    assert len(the_loop(result).outputs) == 2
    assert operators(result) == {"Loop": 1, "Identity": 1, "Neg": 1, "Cos": 1}
    assert_same(model, result, x=X)


def test_states_that_change_or_are_read_stay() -> None:
    model = parse(
        HEADER + "g (float[2, 3] x, int64 n) => (float[2, 3] y, float[2, 3] z) {"
        "  y, z = Loop (n, , x, w) <body = b (int64 i, bool c, float[2, 3] a, float[2, 3] k)"
        "    => (bool d, float[2, 3] e, float[2, 3] f) {"
        "    d = Identity(c) e = Identity(k) f = Identity(a) }>"
        "}",
        w=normal(2, 3, seed=1),
    )
    result = applied(DropLoopState(), model)
    assert len(the_loop(result).outputs) == 2
    assert_same(model, result, x=X, n=np.array(1))


TWINS = (
    HEADER
    + """g (float[2, 3] x, int64 m) => (float[2, 3] y, float[2, 3] z) {
    y, z = Loop (n, , x, x) <body = b (int64 i, bool c, float[2, 3] a, float[2, 3] e)
        => (bool d, float[2, 3] r, float[2, 3] s) {
        d = Identity(c) r = Add(a, e) s = Identity(r) }>
}"""
)


@pytest.mark.parametrize(
    ("call", "body", "states"),
    [
        ("n, , x, x", "r = Add(a, e)", 1),
        ("m, , x, x", "r = Add(a, e)", 1),
        ("n, , x, w", "r = Exp(a)", 1),
        ("n, , w, x", "r = Exp(e)", 1),
        ("m, , x, w", "r = Exp(a)", 2),
        ("n, , x, w", "r = Add(a, e)", 2),
    ],
    ids=["same", "same, perhaps not run", "first read", "second read", "perhaps not run", "apart"],
)
def test_of_states_that_are_always_equal_one_is_enough(call: str, body: str, states: int) -> None:
    text = TWINS.replace("n, , x, x", call).replace("r = Add(a, e)", body)
    model = parse(text, w=normal(2, 3, seed=1), n=np.array(2))
    result = applied(DropLoopState(), model)
    assert len(the_loop(result).outputs) == states
    for trips in (0, 2):
        assert_same(model, result, x=X, m=np.array(trips))


def test_a_weight_carried_through_nested_loops_is_read_from_outside_of_both() -> None:
    model = parse(
        HEADER + "g (float[2, 3] x) => (float[2, 3] y) {"
        "  y, v = Loop (n, , x, w) <body = b (int64 i, bool c, float[2, 3] a, float[2, 3] k)"
        "    => (bool d, float[2, 3] r, float[2, 3] m) { d = Identity(c)"
        "    r, m = Loop (n, , a, k) <body = b2 (int64 i2, bool c2, float[2, 3] a2, float[2, 3] k2)"
        "      => (bool d2, float[2, 3] r2, float[2, 3] k2) { d2 = Identity(c2) r2 = Add(a2, k2) }>"
        "    }>"
        "}",
        n=np.array(2),
        w=normal(2, 3, seed=1),
    )
    result = applied(DropLoopState(), model)
    assert all(
        len(node.inputs) == 3
        for _, graph in files.graphs(result)
        for node in graph
        if node.op_type == "Loop"
    )
    assert_same(model, result, x=X)


SCAN = (
    HEADER
    + """g (float[2, 3] x) => (float[3] y, float[2, 3] q) {
    y, v, p, q = Scan (z, w, x) <num_scan_inputs = 1, scan_output_directions = [0, 1],
                                 scan_output_axes = [1, 0],
        body = b (float[3] a, float[3] k, float[3] e)
        => (float[3] r, float[3] l, float[3] s, float[3] t) {
        l = Identity(k) f = Mul(e, k) r = Add(a, f) s = Neg(f) t = Exp(f) }>
}"""
)


# ONNX Runtime 1.32 loses a state of a Scan that the body returns without an Identity.
def test_a_scan_loses_states_and_outputs_with_their_directions() -> None:
    model = parse(SCAN, z=np.zeros(3, np.float32), w=normal(3, seed=1))
    result = applied(DropLoopState(), model)
    scan = the_loop(result)
    assert [value and value.name for value in scan.inputs] == ["z", "x"]
    assert list(scan.attributes.get_ints("scan_output_directions", [])) == [1]
    assert list(scan.attributes.get_ints("scan_output_axes", [])) == [0]
    assert_same(model, result, x=X)


def test_the_node_keeps_its_name_doc_string_and_metadata() -> None:
    model = parse(CARRIED, w=normal(2, 3, seed=1))
    loop = the_loop(model)
    loop.name, loop.doc_string, loop.metadata_props["from"] = "cell", "a loop", "here"
    kept = the_loop(applied(DropLoopState(), model))
    assert (kept.name, kept.doc_string, kept.metadata_props["from"]) == ("cell", "a loop", "here")
