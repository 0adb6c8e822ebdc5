"""Mutants of spell_mish, its precision, and the provider it is meant for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.optimizer.transaction import fuse
from advconv_onnx.rewriter.fusions import all_rules, spell_mish
from advconv_onnx.rewriter.fusions.spell_mish import SpellMish
from advconv_onnx.rewriter.rule import Site
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session
from tests.parsing import parse
from tests.rewriter.fusions.disproving import assert_disproved, mutate


def _number(op: Any, value: float) -> ir.Value:
    made: ir.Value = op.initializer(np.float32(value), "number")
    return made


@pytest.mark.parametrize("text", spell_mish.EXAMPLES)
@pytest.mark.parametrize(
    ("largest", "inner", "outer"), [(5, 2, 2), (40, 1, 2), (40, 2, 1), (40, 2, 0), (40, 0, 2)]
)
def test_another_formula_is_disproved(
    largest: float, inner: float, outer: float, text: str
) -> None:
    def rewrite(self: Any, op: Any, x: ir.Value) -> ir.Value:
        power = op.Exp(op.Clip(x, None, _number(op, largest)))
        w = op.Mul(power, op.Add(power, _number(op, inner)))
        made: ir.Value = op.Mul(x, op.Div(w, op.Add(w, _number(op, outer))))
        return made

    assert_disproved(mutate(SpellMish, rewrite=rewrite), text)


@pytest.mark.parametrize(
    "nodes",
    [
        "e = Exp(x) p = Add(e, k) a = Log(p) b = Tanh(a) z = Mul(x, b)",
        "a = Softplus(x) b = Sigmoid(a) z = Mul(x, b)",
        "a = Relu(x) b = Tanh(a) z = Mul(x, b)",
        "a = Softplus(x) b = Tanh(a) z = Mul(a, b)",
    ],
)
def test_what_is_nearly_mish_is_disproved(nodes: str) -> None:
    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        return Site(tuple(root.graph), root.graph.inputs[0])

    assert_disproved(
        mutate(SpellMish, find=find),
        f"""<ir_version: 8, opset_import: ["" : 18]> g (float[N, 3, H, W] x) => (float[] z)
        <float k = {{1.001}}> {{ {nodes} }}""",
    )


def test_it_is_as_precise_as_the_operators_far_out_too() -> None:
    model = parse(spell_mish.EXAMPLES[0])
    rewritten = fuse(model, [SpellMish()], seed=0).model
    x = np.linspace(-100, 100, 8 * 512, dtype=np.float32).reshape(1, 8, 16, 32)
    found = run_session(open_session(rewritten), {"x": x, "u": x})["z"]
    exact = x.astype(np.float64)
    exact = exact * np.tanh(np.logaddexp(0, exact))
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-30)


def test_only_the_cpu_provider_gets_it() -> None:
    assert any(rule.name == "spell_mish" for rule in all_rules())
    assert any(rule.name == "spell_mish" for rule in all_rules("cpu"))
    others = {rule.name for rule in all_rules("cuda")}
    assert "spell_mish" not in others
    assert "spell_clip" in others
