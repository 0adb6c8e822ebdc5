"""Mutants of spell_power: exponents mixed up."""

from __future__ import annotations

from typing import Any

import pytest

from advconv_onnx.rewriter.fusions import spell_power
from advconv_onnx.rewriter.fusions.spell_power import SpellPower
from advconv_onnx.rewriter.rule import Site
from tests.rewriter.fusions.disproving import assert_disproved, mutate

_REAL = SpellPower()


@pytest.mark.parametrize("example", [0, 3, 4, 5])
@pytest.mark.parametrize("offset", [1, 2, 3])
def test_another_exponent_is_disproved(example: int, offset: int) -> None:
    exponents = (2, 0.5, -1, -0.5)

    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        x, exponent = _REAL.find(root, opset).plan
        return Site((root,), (x, exponents[exponents.index(exponent) - offset]))

    assert_disproved(mutate(SpellPower, find=find), spell_power.EXAMPLES[example])


@pytest.mark.parametrize(
    ("nodes", "exponent"),
    [
        ("z = Pow(x, e)", "float e = {2.001}"),
        ("z = Pow(x, e)", "float[1, 1, 1, 1, 1] e = {2}"),
        ("z = Pow(x, e)", "float[4, 1, 1] e = {2, 2, 2, 3}"),
        ("z = Pow(e, x)", "float e = {2}"),
    ],
)
def test_other_powers_are_disproved(nodes: str, exponent: str) -> None:
    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        return Site((root,), (root.graph.inputs[0], 2))

    assert_disproved(
        mutate(SpellPower, find=find),
        f"""<ir_version: 8, opset_import: ["" : 13]> g (float[N, 4, H, W] x) => (float[] z)
        <{exponent}> {{ {nodes} }}""",
    )
