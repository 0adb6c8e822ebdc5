"""Loop in the float64 reference against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.reference import Reference
from advconv_onnx.runtime.session import open_session
from tests.parsing import normal, parse

HEADER = '<ir_version: 8, opset_import: ["" : 17]> '
X = normal(2, 3)


def assert_agrees(model: ir.Model, **inputs: np.ndarray) -> None:
    wanted = run_session(open_session(model, graph_optimizations=False), inputs)
    found = Reference(model).run(inputs)
    assert list(wanted) == list(found)
    for name, array in wanted.items():
        assert found[name].shape == array.shape, name
        kind = array.dtype if array.dtype.kind != "f" else np.dtype(np.float64)
        assert found[name].dtype == kind, name
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)


LOOP = (
    HEADER
    + """g (float[2, 3] x, int64 m, bool p)
    => (float[2, 3] y, float[2, 3] z, float[K, 2, 3] q, int64[K] j) {
        y, z, q, j = Loop (m, p, x, w)
        <body = b (int64 i, bool c, float[2, 3] a, float[2, 3] k)
            => (bool d, float[2, 3] r, float[2, 3] l, float[2, 3] e, int64 o) {
            d = And (c, yes)
            h = Mul (a, x)
            r = Add (h, k)
            l = Neg (k)
            e = Exp (r)
            o = Add (i, two)
        }>
    }"""
)
CONSTANTS = {"w": normal(2, 3, seed=1), "yes": np.array(True), "two": np.array(2)}


@pytest.mark.parametrize("trips", [0, 1, 3])
@pytest.mark.parametrize("condition", [True, False])
def test_a_loop_carries_states_and_stacks_what_it_collects(trips: int, condition: bool) -> None:
    model = parse(LOOP, **CONSTANTS)
    assert_agrees(model, x=X, m=np.array(trips), p=np.array(condition))


def test_a_loop_without_condition_runs() -> None:
    model = parse(LOOP.replace("(m, p, x, w)", "(m, , x, w)"), **CONSTANTS)
    assert_agrees(model, x=X, m=np.array(2), p=np.array(False))


def test_a_loop_without_count_runs_until_its_condition_fails() -> None:
    text = LOOP.replace("(m, p, x, w)", "(, p, x, w)").replace("And (c, yes)", "Less (i, two)")
    assert_agrees(parse(text, **CONSTANTS), x=X, m=np.array(0), p=np.array(True))


def test_a_loop_counts_in_the_shape_that_its_body_declares() -> None:
    text = LOOP.replace("int64 i", "int64[1] i").replace("int64 o", "int64[1] o")
    text = text.replace("int64[K] j", "int64[K, 1] j")
    assert_agrees(parse(text, **CONSTANTS), x=X, m=np.array(2), p=np.array(True))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("float[2, 3] k)", "float[2, 3] w)"),
        ("int64 o) {", "int64 o) <float[2, 3] w = {1, 2, 3, 4, 5, 6}> {"),
    ],
    ids=["a state", "a constant"],
)  # fmt: skip
def test_names_inside_hide_names_outside(old: str, new: str) -> None:
    text = LOOP.replace(old, new).replace("(h, k)", "(h, w)")
    if "k)" in old:
        text = text.replace("Neg (k)", "Neg (w)")
    text = text.replace("(m, p, x, w)", "(m, p, x, n)").replace("y, z, q", "n = Exp (w) y, z, q")
    assert_agrees(parse(text, **CONSTANTS), x=X, m=np.array(2), p=np.array(True))


@pytest.mark.parametrize("p", [True, False])
def test_branches_in_loops_read_what_is_around_both(p: bool) -> None:
    text = LOOP.replace(
        "e = Exp (r)",
        "e = If (p) <then_branch = t () => (float[2, 3] u) { u = Add (h, w) },"
        " else_branch = f () => (float[2, 3] v) { v = Sub (x, k) }>",
    )
    text = text.replace("(m, p, x, w)", "(m, , x, w)")
    assert_agrees(parse(text, **CONSTANTS), x=X, m=np.array(2), p=np.array(p))


@pytest.mark.parametrize("depth", [np.array(5), np.array([5]), np.array([5], np.int32)])
def test_one_hot_takes_a_depth_of_one_element(depth: np.ndarray) -> None:
    model = parse(
        HEADER + "g (int64[N] x) => (float[N, D] y) { y = OneHot (x, depth, ends) }",
        depth=depth, ends=np.array([-1, 2], np.float32),
    )  # fmt: skip
    assert_agrees(model, x=np.array([1, 4, 0, 7, -2]))
