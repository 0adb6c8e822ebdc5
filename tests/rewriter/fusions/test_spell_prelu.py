"""Mutants of spell_prelu: the minimum, slopes that bend the positive side, signs."""

from __future__ import annotations

from typing import Any

import pytest

from advconv_onnx.rewriter.fusions import spell_prelu
from advconv_onnx.rewriter.fusions.spell_prelu import SpellPrelu
from advconv_onnx.rewriter.rule import Site
from tests.rewriter.fusions.disproving import assert_disproved, mutate


@pytest.mark.parametrize("text", spell_prelu.EXAMPLES)
@pytest.mark.parametrize(
    "build",
    [
        lambda op, x, s: op.Min(x, op.Mul(x, s)),
        lambda op, x, s: op.Max(x, s),
        lambda op, x, s: op.Max(x, op.Mul(op.Neg(x), s)),
        lambda op, x, s: op.Mul(op.Relu(x), s),
        lambda op, x, s: op.Sub(op.Relu(x), op.Mul(op.Relu(op.Neg(x)), op.Abs(s))),
        lambda op, x, s: op.Add(op.Relu(x), op.Mul(op.Relu(op.Neg(x)), s)),
    ],
)
def test_another_formula_is_disproved(build: Any, text: str) -> None:
    mutant = mutate(SpellPrelu, rewrite=lambda self, op, plan: build(op, *plan[:2]))
    assert_disproved(mutant, text)


def test_a_slope_over_one_is_disproved() -> None:
    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        return Site((root,), (*root.inputs, True))

    assert_disproved(
        mutate(SpellPrelu, find=find),
        """<ir_version: 8, opset_import: ["" : 16]> g (float[N, 3, H, W] x) => (float[] z)
        <float[3, 1, 1] s = {0.5, 1.01, -1}> { z = PRelu(x, s) }""",
    )
