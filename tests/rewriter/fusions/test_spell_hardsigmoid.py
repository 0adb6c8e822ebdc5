"""Mutants of spell_hardsigmoid: constants misread."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from advconv_onnx.rewriter.fusions import spell_hardsigmoid
from advconv_onnx.rewriter.fusions.spell_hardsigmoid import SpellHardsigmoid
from advconv_onnx.rewriter.rule import Site
from tests.rewriter.fusions.disproving import assert_disproved, mutate

_REAL = SpellHardsigmoid()


@pytest.mark.parametrize("example", range(len(spell_hardsigmoid.EXAMPLES)))
@pytest.mark.parametrize(
    "change",
    [
        lambda alpha, beta: (alpha + 1e-3, beta),
        lambda alpha, beta: (alpha, beta + 1e-3),
        lambda alpha, beta: (-alpha, beta),
        lambda alpha, beta: (0.25 if abs(alpha - 0.2) < 1e-6 else 0.2, 0.5),
    ],
)
def test_another_line_is_disproved(change: Any, example: int) -> None:
    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        site = _REAL.find(root, opset)
        x, alpha, beta = site.plan
        return dataclasses.replace(site, plan=(x, *change(alpha, beta)))

    assert_disproved(mutate(SpellHardsigmoid, find=find), spell_hardsigmoid.EXAMPLES[example])


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Add(x, three) b = Clip(a, zero, six) z = Div(b, k)",
        "a = Add(x, three) b = Clip(a, half, six) z = Div(b, six)",
        "a = Add(x, three) b = Clip(a, , six) z = Div(b, six)",
        "a = Add(x, three) b = Clip(a, zero, k) z = Div(b, six)",
        "a = Sub(x, three) b = Clip(a, zero, six) z = Div(b, six)",
        "a = Sub(three, x) b = Clip(a, zero, six) z = Div(b, six)",
        "a = Add(x, three) b = Clip(a, zero, six) z = Mul(b, six)",
    ],
)
def test_other_constants_are_disproved(nodes: str) -> None:
    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        return Site(tuple(root.graph), (root.graph.inputs[0], 1 / 6, 0.5))

    assert_disproved(
        mutate(SpellHardsigmoid, find=find, roots=frozenset(("Mul", "Div"))),
        f"""<ir_version: 8, opset_import: ["" : 13]> g (float[N, C, H, W] x) => (float[] z)
        <float zero = {{0}}, float three = {{3}}, float six = {{6}}, float half = {{0.5}},
         float k = {{5.99}}> {{ {nodes} }}""",
    )
