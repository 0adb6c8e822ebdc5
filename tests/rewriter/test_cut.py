"""A cut holds the site and its replacement as two models that run on the same inputs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.cut import cut
from advconv_onnx.rewriter.rule import Rule, Site
from advconv_onnx.rewriter.walk import producer
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session
from tests.parsing import normal, parse
from tests.rewriter.additions import TWO, MergeAdditions, Sum, additions, proposal

X = normal(2, 3, 4, 5)

Sides = tuple[ir.Model, ir.Model]


def sides(rule: Rule, model: ir.Model) -> Sides:
    both = cut(proposal(rule, model), dict(model.opset_imports))
    for side in both:
        onnx.checker.check_model(ir.to_proto(side), full_check=True)
    return both


def run(side: ir.Model, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    used = {value.name for value in side.graph.inputs}
    session = open_session(side, graph_optimizations=False, threads=1)
    return run_session(session, {name: a for name, a in inputs.items() if name in used})


def operators(side: ir.Model) -> list[str]:
    return [node.op_type for node in side.graph]


def test_both_sides_run_with_the_same_names() -> None:
    between = f"[zero] q = Relu(x) {TWO.replace('x,', 'q,')} [end] u = Neg(z)"
    both = sides(MergeAdditions(), additions(between, "float[N, 3, H, W] u"))
    for side in both:
        assert [value.name for value in side.graph.inputs] == ["q"]
        assert [value.name for value in side.graph.outputs] == ["z"]
        assert [str(dim) for dim in side.graph.outputs[0].shape or ()] == ["N", "3", "H", "W"]
        np.testing.assert_allclose(run(side, q=X)["z"], X + 2 + normal(3, 1, 1), rtol=1e-6)
    assert list(map(operators, both)) == [["Add", "Add"], ["Add"]]


def test_a_cut_shares_nothing_with_its_graph() -> None:
    model = additions(TWO)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    for side in sides(MergeAdditions(), model):
        for value in (*side.graph.inputs, *side.graph.outputs, *side.graph.initializers.values()):
            value.shape = None
        for node in side.graph:
            node.name = "changed"
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(("x", "z"), [("a", "z"), ("x", "a"), ("n0_0", "z"), ("x", "n0_0")])
def test_new_things_get_names_that_inputs_and_outputs_do_not_have(x: str, z: str) -> None:
    """The rule calls its weight 'a' and names no values, which get 'n0_0' and so on."""

    class Detour(MergeAdditions):
        def rewrite(self, op: Builder, plan: Sum) -> ir.Value:
            x, array = plan
            return op.Neg(op.Sub(op.Neg(x), op.initializer(array, "a")))

    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 15]>
            g (float[N, 3, H, W] {x}) => (float[N, 3, H, W] {z})
            {{ y = Add({x}, c) {z} = Add(y, c) }}""",
        c=np.float32(2),
    )
    for side in sides(Detour(), model):
        np.testing.assert_allclose(run(side, **{x: X})[z], X + 4, rtol=1e-6)


class Negate(Rule[ir.Value]):
    """Neg(Relu(x)), whatever else the nodes read."""

    name = "negate"
    roots = frozenset(("Neg",))

    def find(self, root: ir.Node, opset: int) -> Site[ir.Value]:
        first = producer(root.inputs[0])
        assert first.inputs[0] is not None
        return Site((first, root), first.inputs[0])

    def rewrite(self, op: Builder, plan: ir.Value) -> ir.Value:
        return op.Neg(op.Relu(plan))


def test_absent_inputs_stay_absent_and_the_rewritten_side_may_need_fewer_inputs() -> None:
    model = parse(
        """<ir_version: 8, opset_import: ["" : 15]> g (float[3] x, float high) => (float[3] z)
           { y = Clip(x, , high) z = Neg(y) }"""
    )
    before, after = sides(Negate(), model)
    assert before.graph.node(0).inputs[1] is None
    assert [value.name for value in before.graph.inputs] == ["x", "high"]
    assert [value.name for value in after.graph.inputs] == ["x"]
    x, high = np.float32([-2, 1, 5]), np.array(3, np.float32)
    assert run(before, x=x, high=high)["z"].tolist() == [2, -1, -3]
    assert run(after, x=x)["z"].tolist() == [0, -1, -5]


def test_outputs_nobody_wants_stay_unnamed() -> None:
    model = parse(
        """<ir_version: 8, opset_import: ["" : 15]> g (float[1, 2, 6] x) => (float[1, 2, 6] z)
           { y, i = MaxPool <kernel_shape = [1]> (x) z = Neg(y) }"""
    )
    model.graph.node(0).outputs[1].name = ""
    ((first, _), _) = (list(side.graph) for side in sides(Negate(), model))
    assert [value.name for value in first.outputs] == ["y", ""]


def test_a_default_of_an_input_is_no_constant() -> None:
    """Whoever runs the model may give another number."""
    model = parse(
        """<ir_version: 8, opset_import: ["" : 15]> g (float[3] x, float low) => (float[3] z)
           { y = Clip(x, low) z = Neg(y) }""",
        low=np.float32(1),
    )
    before, _ = sides(Negate(), model)
    assert [value.name for value in before.graph.inputs] == ["x", "low"]
    assert not before.graph.initializers


def test_values_of_unknown_type_are_taken_as_float32_others_keep_their_type() -> None:
    for text, wanted in (
        ("double[3] x) => (double[3] z) { y = Relu(x) z = Neg(y)", ir.DataType.DOUBLE),
        (
            "float[3] u) => (float[3] v) { x = other.F(u) y = Relu(x) z = Neg(y) v = other.G(z)",
            ir.DataType.FLOAT,
        ),
    ):
        model = parse(f'<ir_version: 8, opset_import: ["" : 15, "other" : 1]> g ({text} }}')
        for side in cut(proposal(Negate(), model), {"": 15}):
            assert [v.dtype for v in (*side.graph.inputs, *side.graph.outputs)] == [wanted] * 2


def test_several_outputs_are_told_apart_by_name() -> None:
    class Swap(Rule[ir.Value]):
        name = "swap"
        roots = frozenset(("Neg",))

        def find(self, root: ir.Node, opset: int) -> Site[ir.Value]:
            first = producer(root.inputs[0], "Relu")
            assert first.inputs[0] is not None
            outputs = (root.outputs[0], first.outputs[0])
            return Site((first, root), first.inputs[0], outputs)

        def rewrite(self, op: Builder, plan: ir.Value) -> tuple[ir.Value, ir.Value]:
            y = op.Relu(plan)
            return op.Neg(y), y

    model = parse(
        """<ir_version: 8, opset_import: ["" : 15]> g (float[3] x) => (float[3] z, float[3] y)
           { y = Relu(x) z = Neg(y) }"""
    )
    for side in sides(Swap(), model):
        results = run(side, x=np.float32([-1, 0, 2]))
        assert {name: array.tolist() for name, array in results.items()} == {
            "z": [0, 0, -2],
            "y": [0, 0, 2],
        }
