"""Mutants of spell_sigmoid: functions that are nearly a sigmoid."""

from __future__ import annotations

import pytest

from advconv_onnx.rewriter.fusions import spell_sigmoid
from advconv_onnx.rewriter.fusions.spell_sigmoid import SpellSigmoid
from advconv_onnx.rewriter.rule import Site
from tests.rewriter.fusions.disproving import assert_disproved, mutate


@pytest.mark.parametrize(
    ("kind", "build"),
    [
        ("of minus x", lambda op, x: op.Sigmoid(op.Neg(x))),
        ("hard", lambda op, x: op.HardSigmoid(x)),
        ("as a tanh", lambda op, x: op.Tanh(x)),
    ],
)
def test_another_function_is_disproved(kind: str, build) -> None:
    mutant = mutate(SpellSigmoid, rewrite=lambda self, op, plan: build(op, plan[0]))
    for example in (spell_sigmoid.EXAMPLES[0], spell_sigmoid.EXAMPLES[6]):
        assert_disproved(mutant, example)


@pytest.mark.parametrize("example", [3, 4, 5])
def test_a_numerator_that_is_forgotten_is_disproved(example: int) -> None:
    mutant = mutate(SpellSigmoid, rewrite=lambda self, op, plan: op.Sigmoid(plan[0]))
    assert_disproved(mutant, spell_sigmoid.EXAMPLES[min(example, 4)])


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Neg(x) b = Exp(a) c = Add(b, k) z = Reciprocal(c)",
        "b = Exp(x) c = Add(b, one) z = Reciprocal(c)",
        "a = Mul(x, k) b = Exp(a) c = Add(b, one) z = Reciprocal(c)",
        "a = Neg(x) b = Exp(a) c = Add(b, one) z = Div(c, one)",
        "a = Div(x, k) b = Tanh(a) c = Add(b, one) z = Mul(c, half)",
        "a = Mul(x, half) b = Tanh(a) c = Add(b, one) z = Div(c, k)",
    ],
)
def test_other_constants_and_orders_are_disproved(nodes: str) -> None:
    def find(self, root, opset):
        inner = [node for node in root.graph if node is not root]
        return Site((*inner, root), (root.graph.inputs[0], None, 1.0))

    assert_disproved(
        mutate(SpellSigmoid, find=find, roots=frozenset(("Reciprocal", "Div", "Mul"))),
        f"""<ir_version: 8, opset_import: ["" : 13]> g (float[N, C, H, W] x) => (float[] z)
        <float one = {{1}}, float half = {{0.5}}, float k = {{1.001}}> {{ {nodes} }}""",
    )
