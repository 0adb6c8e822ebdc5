"""What a loop computes anew in every iteration moves before it, unless it might not run."""

from __future__ import annotations

import numpy as np
import pytest

from advconv_onnx.rewriter.hoist_invariants import HoistInvariants
from tests.parsing import normal, parse
from tests.rewriter.bodies import applied, assert_same, operators

HEADER = '<ir_version: 8, opset_import: ["" : 17]> '
X = normal(3, 3)
INPUTS = {"x": X, "m": np.array(2), "p": np.array(True)}

LOOP = (
    HEADER
    + """g (float[3, 3] x, int64 m, bool p) => (float[3, 3] y, float[N, 3, 3] q) {
    y, q = Loop (n, t, x) <body = b (int64 i, bool c, float[3, 3] a)
        => (bool d, float[3, 3] r, float[3, 3] s) {
        d = Identity(c)
        h = Shape(x)
        k = MatMul(x, w)
        l = Relu(k)
        r = MatMul(a, l)
        s = Reshape(r, h)
    }>
}"""
)


def loop(**weights: np.ndarray) -> dict[str, np.ndarray]:
    return {"w": normal(3, 3, seed=1), "n": np.array(3), "t": np.array(True), **weights}


def test_a_chain_of_invariants_moves_out() -> None:
    model = parse(LOOP, **loop())
    result = applied(HoistInvariants(), model)
    assert operators(result, 1) == {"Identity": 1, "MatMul": 1, "Reshape": 1}
    assert_same(model, result, **INPUTS)


@pytest.mark.parametrize(
    ("count", "condition"), [("n", "p"), ("m", "t"), ("m", ""), ("z", "t"), ("n", "f")]
)
def test_a_loop_that_may_not_run_keeps_all_but_shapes(count: str, condition: str) -> None:
    text = LOOP.replace("Loop (n, t, x)", f"Loop ({count}, {condition}, x)")
    weights = loop(z=np.array(0), f=np.array(False))
    model = parse(text, **weights)
    result = applied(HoistInvariants(), model)
    assert operators(result)["Shape"] == 1
    assert operators(result, 1) == {"Identity": 1, "MatMul": 2, "Relu": 1, "Reshape": 1}
    assert_same(model, result, **INPUTS)


SIZES = (
    HEADER
    + """g (float[N, M] x, int64 m) => (float[N, M] y, float[K, N, M] q) {
    y, q = Loop (m, , x) <body = b (int64 i, bool c, float[N, M] a)
        => (bool d, float[N, M] r, float[N, M] s) {
        d = Identity (c)
        h = Shape (x)
        j = Gather (h, at)
        k = Unsqueeze (j, axis)
        l = Concat <axis = 0> (minus, k)
        e = Exp (x)
        r = Add (a, e)
        s = Reshape (r, l)
    }>
}"""
)


@pytest.mark.parametrize(
    ("text", "at", "inside"),
    [
        (SIZES, 1, {"Identity": 1, "Exp": 1, "Add": 1, "Reshape": 1}),
        (SIZES, -1, {"Identity": 1, "Exp": 1, "Add": 1, "Reshape": 1}),
        (SIZES.replace("Exp", "Neg"), 1, {"Identity": 1, "Neg": 1, "Add": 1, "Reshape": 1}),
        (
            SIZES.replace("j = Gather (h, at)", "f = Div (h, h) j = Gather (f, at)"),
            1,
            {"Identity": 1, "Exp": 1, "Add": 1, "Reshape": 1, "Div": 1, "Gather": 1}
            | {"Unsqueeze": 1, "Concat": 1},
        ),
    ],
    ids=["the last size", "counted from the end", "not on whole images", "a division may fail"],
)
def test_arithmetic_of_sizes_moves_out_of_a_loop_that_may_not_run(
    text: str, at: int, inside: dict[str, int]
) -> None:
    model = parse(text, at=np.array(at), axis=np.array([0]), minus=np.array([-1]))
    result = applied(HoistInvariants(), model)
    assert operators(result, 1) == inside
    for trips in (0, 2):
        assert_same(model, result, x=X, m=np.array(trips))


def test_a_position_out_of_range_fails_only_where_it_did() -> None:
    text = SIZES.replace("=> (float[N, M] y, float[K, N, M] q)", "=> (float[N, M] y)")
    model = parse(text, at=np.array(2), axis=np.array([0]), minus=np.array([-1]))
    result = applied(HoistInvariants(), model)
    assert operators(result, 1)["Gather"] == 1
    assert_same(model, result, x=X, m=np.array(0))


@pytest.mark.parametrize(("count", "condition"), [("", "t"), ("n", "")])
def test_an_input_left_out_does_not_stop_a_loop(count: str, condition: str) -> None:
    text = LOOP.replace("Loop (n, t, x)", f"Loop ({count}, {condition}, x)")
    if not count:
        text = text.replace("d = Identity(c)", "d = Less(i, one)")
    model = parse(text, **loop(one=np.array(1)))
    result = applied(HoistInvariants(), model)
    assert operators(result, 1)["MatMul"] == 1
    assert_same(model, result, **INPUTS)


def test_random_numbers_and_results_of_the_body_stay() -> None:
    text = LOOP.replace("l = Relu(k)", "z = RandomNormalLike(x) l = Mul(z, x)")
    model = parse(text, **loop())
    assert operators(applied(HoistInvariants(), model), 1)["RandomNormalLike"] == 1
    text = LOOP.replace("s = Reshape(r, h)", "s = Relu(x)")
    model = parse(text, **loop())
    result = applied(HoistInvariants(), model)
    assert operators(result, 1)["Relu"] == 1
    assert_same(model, result, **INPUTS)


def test_a_constant_of_the_body_moves_with_its_reader_under_a_name_of_its_own() -> None:
    """Inside, ``w`` hides the ``w`` outside."""
    text = LOOP.replace("s) {", "s) <float[3, 3] w = {1,2,3,4,5,6,7,8,9}> {")
    text = text.replace("y, q = Loop (n, t, x)", "x2 = Add(x, w) y, q = Loop (n, t, x2)")
    model = parse(text, **loop())
    result = applied(HoistInvariants(), model)
    assert operators(result, 1)["MatMul"] == 1
    assert len([v for v in result.graph.initializers.values() if v.uses()]) == 4
    assert_same(model, result, **INPUTS)


def test_an_invariant_if_moves_out_of_both_loops_with_its_bodies() -> None:
    model = parse(
        HEADER + "g (float[3, 3] x, bool p) => (float[3, 3] y) {"
        "  y = Loop (n, , x) <body = b (int64 i, bool c, float[3, 3] a)"
        "    => (bool d, float[3, 3] r) { d = Identity(c)"
        "    r = Loop (n, , a) <body = b2 (int64 i2, bool c2, float[3, 3] a2)"
        "      => (bool d2, float[3, 3] r2) { d2 = Identity(c2)"
        "      k = If (p) <then_branch = e1 () => (float[3, 3] z1) { u = Neg(x) z1 = Exp(u) },"
        "                  else_branch = e2 () => (float[3, 3] z2) { z2 = MatMul(x, w) }>"
        "      o = Mul(a, x)"
        "      s = Add(o, k)"
        "      r2 = Add(a2, s) }>"
        "    }>"
        "}",
        **loop(),
    )
    result = applied(HoistInvariants(), model)
    assert [node.op_type for node in result.graph] == ["If", "Loop"]
    branches = {"Neg": 1, "Exp": 1, "MatMul": 1}
    assert operators(result, 1) == {"Identity": 1, "Mul": 1, "Add": 1, "Loop": 1, **branches}
    assert operators(result, 2) == {"Identity": 1, "Add": 1}
    for p in (True, False):
        assert_same(model, result, x=X, p=np.array(p))


@pytest.mark.parametrize(("rows", "inside"), [("3", 0), ("N", 1)])
def test_a_scan_runs_where_sizes_are_known(rows: str, inside: int) -> None:
    model = parse(
        HEADER + f"g (float[{rows}, 3] x, float[3] v) => (float[3] y) {{"
        "  y = Scan (z, x) <num_scan_inputs = 1, body = b (float[3] a, float[3] e)"
        "    => (float[3] r) { k = Exp(v) f = Mul(k, e) r = Add(a, f) }>"
        "}",
        z=np.zeros(3, np.float32),
    )
    result = applied(HoistInvariants(), model)
    assert operators(result, 1)["Exp"] == inside
    assert_same(model, result, x=X, v=normal(3))
