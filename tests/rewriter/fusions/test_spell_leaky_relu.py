"""Mutants of spell_leaky_relu: slopes and comparisons misread."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from advconv_onnx.rewriter.fusions import spell_leaky_relu
from advconv_onnx.rewriter.fusions.spell_leaky_relu import SpellLeakyRelu
from advconv_onnx.rewriter.rule import Site
from tests.rewriter.fusions.disproving import assert_disproved, mutate

_REAL = SpellLeakyRelu()


@pytest.mark.parametrize("example", range(len(spell_leaky_relu.EXAMPLES)))
@pytest.mark.parametrize(
    "change", [lambda a: a + 1e-3, lambda a: -a or 1, lambda a: 1 / a if a not in (0, 1) else 9]
)
def test_another_slope_is_disproved(change: Any, example: int) -> None:
    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        site = _REAL.find(root, opset)
        x, slope = site.plan
        return dataclasses.replace(site, plan=(x, change(slope)))

    assert_disproved(mutate(SpellLeakyRelu, find=find), spell_leaky_relu.EXAMPLES[example])


@pytest.mark.parametrize(
    "nodes",
    [
        "m = Mul(x, two) z = Max(x, m)",
        "m = Mul(x, half) z = Min(x, m)",
        "m = Mul(x, half) t = Less(x, zero) z = Where(t, x, m)",
        "m = Mul(x, half) t = Greater(x, zero) z = Where(t, m, x)",
        "m = Mul(x, half) t = Greater(x, half) z = Where(t, x, m)",
        "p = Relu(x) n = Neg(x) q = Relu(n) m = Mul(q, half) z = Add(p, m)",
        "p = Relu(x) n = Neg(x) q = Relu(n) m = Mul(q, half) z = Sub(m, p)",
        "p = Relu(x) q = Relu(x) m = Mul(q, half) z = Sub(p, m)",
        "p = Relu(x) q = Abs(x) r = Add(x, q) m = Mul(r, quarter) z = Add(p, m)",
        "p = Relu(x) q = Min(x, half) m = Mul(q, half) z = Add(p, m)",
        "z = PRelu(x, s)",
    ],
)
def test_what_is_nearly_a_leaky_relu_is_disproved(nodes: str) -> None:
    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        return Site(tuple(root.graph), (root.graph.inputs[0], 0.5))

    last = nodes.split("z = ")[1].split("(")[0]
    assert_disproved(
        mutate(SpellLeakyRelu, find=find, roots=frozenset((last,))),
        f"""<ir_version: 8, opset_import: ["" : 16]> g (float[N, 3, H, W] x) => (float[] z)
        <float zero = {{0}}, float two = {{2}}, float half = {{0.5}}, float quarter = {{0.25}},
         float[3, 1, 1] s = {{0.5, 0.5, 0.501}}> {{ {nodes} }}""",
    )
