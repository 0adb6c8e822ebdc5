"""Rules inside the bodies of If, Loop and Scan, with weights from around them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from advconv_onnx.optimizer.transaction import Fusing, fuse
from advconv_onnx.rewriter import simplify
from advconv_onnx.rewriter.fusions import all_rules
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session
from tests.parsing import normal, parse
from tests.rewriter.bodies import operators

HEADER = '<ir_version: 8, opset_import: ["" : 17]> '
WEIGHTS = {
    "w": normal(4, 4, 3, 3),
    "v": normal(4, 4, 1, 1, seed=1),
    "s": np.abs(normal(4, seed=2)) + 1,
    "n": np.array(3),
}
X = normal(2, 4, 5, 6, seed=3)
P = {"p": np.array(True)}
Q = {"p": np.array(False)}

# One convolution and its BatchNormalization, to be folded.
FOLD = "c = Conv <pads = [1, 1, 1, 1]> (a, w) r = BatchNormalization (c, s, s, s, s)"

IF = (
    HEADER
    + "g (float[N, 4, H, W] x, bool p) => (float[N, 4, H, W] y) { a = Relu(x)"
    + " y = If (p) <then_branch = t () => (float[N, 4, H, W] r) {"
    + FOLD
    + " }, else_branch = e () => (float[N, 4, H, W] k) { k = Neg(a) }> }"
)
LOOP = (
    HEADER
    + "g (float[N, 4, H, W] x, int64 m) => (float[N, 4, H, W] y) {"
    + " y = Loop (m, , x) <body = b (int64 i, bool d, float[N, 4, H, W] a)"
    + " => (bool e, float[N, 4, H, W] u) { e = Identity(d) "
    + FOLD
    + " u = Tanh(r) }> }"
)
SCAN = (
    HEADER
    + "g (float[3, N, 4, H, W] x) => (float[3, N, 4, H, W] y) {"
    + " y = Scan (x) <num_scan_inputs = 1, body = b (float[N, 4, H, W] a)"
    + " => (float[N, 4, H, W] r) { "
    + FOLD
    + " }> }"
)
NESTED = (
    HEADER
    + "g (float[N, 4, H, W] x, bool p, int64 m) => (float[N, 4, H, W] y) {"
    + " y = If (p) <then_branch = t () => (float[N, 4, H, W] z) {"
    + "  z = Loop (m, , x) <body = b (int64 i, bool d, float[N, 4, H, W] a)"
    + "  => (bool e, float[N, 4, H, W] u) { e = Identity(d) "
    + FOLD
    + "  u = Tanh(r) }> }, else_branch = e () => (float[N, 4, H, W] k) { k = Neg(x) }> }"
)


def fused(text: str) -> tuple[ir.Model, Fusing]:
    model = parse(text, **{name: a for name, a in WEIGHTS.items() if f" {name}" in text})
    fusing = fuse(simplify.settle(model), all_rules(), seed=0)
    onnx.checker.check_model(ir.to_proto(fusing.model), full_check=True)
    return model, fusing


def assert_close(model: ir.Model, result: ir.Model, **inputs: np.ndarray) -> None:
    wanted, found = (
        run_session(open_session(each, graph_optimizations=False), inputs)
        for each in (model, result)
    )
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, atol=1e-5 * max(1, np.abs(array).max()))


def rules(fusing: Fusing) -> list[str]:
    return [rewrite.rule for rewrite in fusing.applied]


@pytest.mark.parametrize(
    ("text", "inputs"),
    [
        (IF, [{"x": X, **P}, {"x": X, **Q}]),
        (LOOP, [{"x": X, "m": np.array(trips)} for trips in (0, 1, 3)]),
        (SCAN, [{"x": np.stack([X, -X, X + 1])}]),
        (NESTED, [{"x": X, "m": np.array(2), **P}, {"x": X, "m": np.array(2), **Q}]),
    ],
    ids=["If", "Loop", "Scan", "nested"],
)
def test_a_fold_in_a_body_takes_its_weights_from_outside(
    text: str, inputs: list[dict[str, np.ndarray]]
) -> None:
    model, fusing = fused(text)
    assert rules(fusing) == ["fold_batchnorm"]
    assert operators(fusing.model)["BatchNormalization"] == 0
    for feed in inputs:
        assert_close(model, fusing.model, **feed)


def test_a_result_that_a_body_returns_keeps_its_name() -> None:
    _, fusing = fused(IF)
    (branch,) = (g for g in fusing.model.graphs() if g.name == "t")
    assert [value.name for value in branch.outputs] == ["r"]


def test_weights_of_a_body_that_hide_weights_outside_are_the_ones_folded() -> None:
    """``s`` means something else inside, and the one outside is read there too."""
    body = "(float[N, 4, H, W] r)"
    text = IF.replace(
        body + " {", body + " <float[4] s = {1, 2, 3, 4}, float[4] w_bias = {5, 6, 7, 8}> {", 1
    ).replace("a = Relu(x)", "h = Relu(x) o = Reshape(s, f) a = Mul(h, o)")
    text = text.replace("r = Batch", "q = Batch").replace(
        "s, s, s, s)", "s, s, s, s) r = Add(q, j)"
    )
    text = text.replace("r = Add(q, j)", "j = Reshape(w_bias, f) r = Add(q, j)")
    model = parse(
        text,
        w=WEIGHTS["w"], s=WEIGHTS["s"], f=np.array([4, 1, 1]),
    )  # fmt: skip
    folded = simplify.fold_constants(simplify.settle(model), 1 << 10)
    fusing = fuse(folded, all_rules(), seed=0)
    assert "fold_batchnorm" in rules(fusing)
    onnx.checker.check_model(ir.to_proto(fusing.model), full_check=True)
    for feed in (P, Q):
        assert_close(model, fusing.model, x=X, **feed)


def test_a_value_that_a_body_captures_is_read_elsewhere() -> None:
    text = (
        HEADER + "g (float[N, 4, H, W] x, bool p) => (float[N, 4, H, W] y, float[N, 4, H, W] z) {"
        " c = Conv <pads = [1, 1, 1, 1]> (x, w) y = BatchNormalization (c, s, s, s, s)"
        " z = If (p) <then_branch = t () => (float[N, 4, H, W] r) { r = Tanh(c) },"
        "             else_branch = e () => (float[N, 4, H, W] k) { k = Neg(x) }> }"
    )
    model, fusing = fused(text)
    assert not fusing.applied
    assert "read" in {r.rule: r.reason for r in fusing.refused}["fold_batchnorm"]
    for feed in (P, Q):
        assert_close(model, fusing.model, x=X, **feed)


def test_a_body_does_not_take_away_what_is_made_outside() -> None:
    """The BatchNormalization in the branch may not take the convolution before the If."""
    text = (
        HEADER + "g (float[N, 4, H, W] x, bool p) => (float[N, 4, H, W] y) {"
        " c = Conv <pads = [1, 1, 1, 1]> (x, w)"
        " y = If (p) <then_branch = t () => (float[N, 4, H, W] r)"
        "      { r = BatchNormalization (c, s, s, s, s) },"
        "             else_branch = e () => (float[N, 4, H, W] k) { k = Neg(c) }> }"
    )
    model, fusing = fused(text)
    assert not fusing.applied
    for feed in (P, Q):
        assert_close(model, fusing.model, x=X, **feed)


def test_a_weight_shared_by_two_bodies_is_folded_in_each_on_its_own() -> None:
    """Only one of the two convolutions has a BatchNormalization after it."""
    text = IF.replace("{ k = Neg(a) }", "{ k = Conv <pads = [1, 1, 1, 1]> (a, w) }")
    model, fusing = fused(text)
    assert rules(fusing) == ["fold_batchnorm"]
    for feed in (P, Q):
        assert_close(model, fusing.model, x=X, **feed)


def test_both_branches_and_the_graph_around_them_are_rewritten_under_names_of_their_own() -> None:
    inner = "c = Conv <pads = [1, 1, 1, 1]> (a, w) k = BatchNormalization (c, s, s, s, s)"
    text = IF.replace("k = Neg(a)", inner).replace(
        "a = Relu(x)", "b = Conv (x, v) f = BatchNormalization (b, s, s, s, s) a = Relu(f)"
    )
    model, fusing = fused(text)
    assert rules(fusing) == ["fold_batchnorm"] * 3
    names = [node.name for graph in fusing.model.graphs() for node in graph]
    assert len(names) == len(set(names))
    for feed in (P, Q):
        assert_close(model, fusing.model, x=X, **feed)


def test_a_function_is_rewritten_where_it_is_called() -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17, "local" : 1]> '
        "g (float[N, 4, H, W] x) => (float[N, 4, H, W] y) {"
        " a = local.block (x, w, s) y = local.block (a, w, s) }"
        '<opset_import: ["" : 17], domain: "local">'
        " block (a, w, s) => (r) { " + FOLD + " }"
    )
    model, fusing = fused(text)
    assert rules(fusing) == ["fold_batchnorm"] * 2
    assert_close(model, fusing.model, x=X)


def test_shapes_in_bodies_are_inferred_from_constants_outside_of_them() -> None:
    text = (
        HEADER + "g (float[N, 4] x, bool p) => (float[K, L, M] y) {"
        " y = If (p) <then_branch = t () => (float[A, B, C] r)"
        " { o = Unsqueeze (x, axis) q = Unsqueeze (o, axis) u = Squeeze (q, axis)"
        "   r = Reshape (u, shape) }, else_branch = e () => (float[D, E, F] k)"
        " { k = Unsqueeze (x, axis) }> }"
    )
    model = parse(text, axis=np.array([0]), shape=np.array([0, 2, -1]))
    shapes = {
        value.name: list(value.shape or ())
        for graph in model.graphs()
        for node in graph
        for value in node.outputs
    }
    assert [len(shapes[name]) for name in "oqurk"] == [3, 4, 3, 3, 3]
    (branch, _) = (graph for graph in model.graphs() if graph is not model.graph)
    assert not branch.initializers, "the copies made for this are gone"
    assert len(model.graph.initializers["axis"].uses()) == 4


def test_a_state_that_only_noise_seemed_to_change_is_read_from_outside() -> None:
    """PaddlePaddle's exporter copies each state by adding 0; then the product is no work."""
    text = (
        HEADER + "g (float[2, 4, 5, 6] x) => (float[2, 4, 5, 6] y) {"
        " y, z = Loop (n, , x, v) <body = b"
        " (int64 i, bool d, float[2, 4, 5, 6] a, float[4, 4, 1, 1] k)"
        " => (bool e, float[2, 4, 5, 6] r, float[4, 4, 1, 1] l) { e = Identity(d)"
        "   o = Unsqueeze (k, axis) q = Add (o, nil) l = Squeeze (q, axis)"
        "   j = Mul (k, k) h = Conv (a, j) r = Tanh (h) }> }"
    )
    model = parse(
        text, n=np.array(3), v=WEIGHTS["v"], axis=np.array([0]), nil=np.zeros(1, np.float32)
    )
    fusing = fuse(simplify.settle(model), all_rules(), seed=0)
    (loop,) = (node for node in fusing.model.graph if node.op_type == "Loop")
    assert len(loop.outputs) == 1
    assert operators(fusing.model, 1) == {"Identity": 1, "Conv": 1, "Tanh": 1}
    onnx.checker.check_model(ir.to_proto(fusing.model), full_check=True)
    assert_close(model, fusing.model, x=X)
