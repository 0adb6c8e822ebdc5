"""Loops that run once or never lose their body."""

from __future__ import annotations

import numpy as np
import onnx_ir.passes.common as ir_passes
import pytest

from advconv_onnx.rewriter.inline_loops import InlineLoops
from tests.parsing import normal, parse
from tests.rewriter.bodies import applied, assert_same, operators

X = normal(2, 3)
INPUTS = {"x": X, "m": np.array(1), "p": np.array(True)}

LOOP = """<ir_version: 8, opset_import: ["" : %d]>
    g (float[2, 3] x, int64 m, bool p)
    => (float[2, 3] y, float[2, 3] z, float[K, 2, 3] q, float[L, 2, 3] s) {
        y, z, q, s = Loop (one, yes, x, w) <body = b (int64 i, bool c, float[2, 3] a, float[2, 3] k)
            => (bool d, float[2, 3] r, float[2, 3] a, float[2, 3] e, float[2, 3] k)
            <float[2, 3] w = {1, 2, 3, 4, 5, 6}> {
            d = And(c, p)
            f = Cast <to = 1> (i)
            h = Add(a, f)
            e = Exp(h)
            r = Mul(e, w)
        }>
    }"""

CONSTANTS = {
    "one": np.array(1),
    "two": np.array([2]),
    "nil": np.array(0),
    "yes": np.array(True),
    "no": np.array(False),
    "w": normal(2, 3, seed=1),
}


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_a_body_that_runs_once_takes_the_place_of_its_loop(opset: int) -> None:
    """Inside, ``w`` hides the ``w`` outside, and ``a`` and ``k`` are handed out as they are."""
    model = parse(LOOP % opset, **CONSTANTS)
    loop = model.graph.node(0)
    loop.metadata_props["origin"] = "cell"
    result = applied(InlineLoops(), model)
    assert operators(result)["Loop"] == 0
    assert operators(result)["Unsqueeze"] == 2
    assert {
        n.metadata_props.get("origin") for n in result.graph if n.op_type in ("Exp", "Mul")
    } == {"cell"}
    assert_same(model, result, **INPUTS)


@pytest.mark.parametrize(
    ("call", "condition", "loops"),
    [
        ("(one, , x, w)", "And(c, p)", 0),
        ("(two, yes, x, w)", "Constant <value = bool {0}> ()", 0),
        ("(, yes, x, w)", "Constant <value = bool {0}> ()", 0),
        ("(two, yes, x, w)", "And(c, p)", 1),
        ("(m, yes, x, w)", "And(c, p)", 1),
        ("(m, yes, x, w)", "Constant <value = bool {0}> ()", 1),
        ("(one, p, x, w)", "And(c, p)", 1),
        ("(nil, yes, x, w)", "And(c, p)", 1),
        ("(one, no, x, w)", "And(c, p)", 1),
    ],
)
def test_only_loops_that_surely_run_once_are_inlined(call: str, condition: str, loops: int) -> None:
    text = (LOOP % 17).replace("(one, yes, x, w)", call).replace("And(c, p)", condition)
    model = parse(text, **CONSTANTS)
    lift = ir_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)
    result = applied(InlineLoops(), lift(model.clone()).model)
    assert operators(result)["Loop"] == loops
    assert_same(model, result, **INPUTS)


@pytest.mark.parametrize("call", ["(nil, yes, x, w)", "(m, no, x, w)"])
def test_a_loop_that_never_runs_hands_on_its_states(call: str) -> None:
    text = (LOOP % 17).replace("(one, yes, x, w)", call)
    text = text.replace("z, float[K, 2, 3] q, float[L, 2, 3] s)", "z)")
    model = parse(text, **CONSTANTS)
    result = applied(InlineLoops(), model)
    assert operators(result) == {"Identity": 2}
    assert_same(model, result, **INPUTS)


@pytest.mark.parametrize("declared", ["int64", "int64[1]"])
def test_the_counter_has_the_shape_that_the_body_declares(declared: str) -> None:
    text = (LOOP % 17).replace("int64 i", f"{declared} i")
    model = parse(text, **CONSTANTS)
    assert_same(model, applied(InlineLoops(), model), **INPUTS)


def test_nested_loops_that_run_once_both_go() -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2, 3] x) => (float[2, 3] y) {'
        "  y = Loop (one, , x) <body = b (int64 i, bool c, float[2, 3] a)"
        "    => (bool d, float[2, 3] r) { d = Identity(c) t = Neg(a)"
        "    r = Loop (one, , t) <body = b2 (int64 i2, bool c2, float[2, 3] t2)"
        "      => (bool d2, float[2, 3] r2) { d2 = Identity(c2) u = Exp(t2) r2 = Mul(u, a) }> }>"
        "}",
        one=np.array(1),
    )
    result = applied(InlineLoops(), model)
    assert operators(result)["Loop"] == 0
    assert_same(model, result, x=X)
