"""Mutants of spell_folded_norm: scale, shift and mean mixed up."""

from __future__ import annotations

from typing import Any

import pytest

from advconv_onnx.rewriter.fusions import spell_folded_norm
from advconv_onnx.rewriter.fusions.spell_folded_norm import SpellFoldedNorm
from advconv_onnx.rewriter.rule import NoSite, Site
from tests.rewriter.fusions.disproving import assert_disproved, mutate

_REAL = SpellFoldedNorm()


@pytest.mark.parametrize("example", range(4))
@pytest.mark.parametrize(
    "build",
    [
        lambda op, y, gain, shift: op.Add(y, shift),
        lambda op, y, gain, shift: op.Mul(op.Add(y, shift), gain),
        lambda op, y, gain, shift: op.Add(op.Mul(y, shift), gain),
        lambda op, y, gain, shift: op.Sub(op.Mul(y, gain), shift),
        lambda op, y, gain, shift: op.Mul(y, gain),
    ],
)
def test_scale_and_shift_mixed_up_are_disproved(build: Any, example: int) -> None:
    def rewrite(self: Any, op: Any, plan: Any) -> Any:
        core = plan.core
        deviation = op.Sub(core.x, op.ReduceMean(core.x, axes=core.axes))
        variance = op.ReduceMean(op.Mul(deviation, deviation), axes=core.axes)
        epsilon = core.nodes[-2].inputs[1]
        y = op.Div(deviation, op.Sqrt(op.Add(variance, epsilon)))
        return build(op, y, plan.gain, plan.shift)

    assert_disproved(mutate(SpellFoldedNorm, rewrite=rewrite), spell_folded_norm.EXAMPLES[example])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("t = Mul(r, m)", "t = Mul(r, v)"),
        ("u = Sub(b, t)", "u = Sub(t, b)"),
        ("u = Sub(b, t)", "u = Add(b, t)"),
        ("y = Mul(x, r)", "y = Mul(d, r)"),
        ("r = Mul(i, g)", "r = Mul(s, g)"),
        ("q = Mul(d, d)", "q = Mul(x, x)"),
        ("t = Mul(r, m)", "t = Mul(i, m)"),
        ("v = ReduceMean <axes = [2, 3]>", "v = ReduceMean <axes = [3]>"),
    ],
)
def test_what_is_nearly_a_normalization_is_disproved(old: str, new: str) -> None:
    right = spell_folded_norm.EXAMPLES[0]

    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        if root is not root.graph[-1]:
            raise NoSite
        inputs = root.graph.inputs[0], root.graph.initializers["g"], root.graph.initializers["b"]
        return Site(tuple(root.graph), inputs)

    def rewrite(self: Any, op: Any, plan: Any) -> Any:
        x, gain, shift = plan
        y = spell_folded_norm.plain_instance_norm(op, x, 3, 0.25)
        return op.Add(op.Mul(y, gain), shift)

    mutant = mutate(SpellFoldedNorm, find=find, rewrite=rewrite)
    assert old in right
    assert_disproved(mutant, right.replace(old, new))
