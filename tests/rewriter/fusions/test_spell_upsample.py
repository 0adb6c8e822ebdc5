"""Mutants of spell_upsample: axes mixed up, tiles taken for repeats."""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.fusions import spell_upsample
from advconv_onnx.rewriter.fusions.spell_upsample import SpellUpsample
from advconv_onnx.rewriter.rule import Site
from tests.rewriter.fusions.disproving import assert_disproved, mutate

_REAL = SpellUpsample()


@pytest.mark.parametrize("example", range(len(spell_upsample.EXAMPLES)))
@pytest.mark.parametrize("change", [lambda a, b: (b, a), lambda a, b: (a, b + 1)])
def test_other_scales_are_disproved(change: Any, example: int) -> None:
    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        site = _REAL.find(root, opset)
        x, scales, target = site.plan
        return dataclasses.replace(site, plan=(x, change(*scales), target))

    assert_disproved(mutate(SpellUpsample, find=find), spell_upsample.EXAMPLES[example])


@pytest.mark.parametrize("example", range(len(spell_upsample.EXAMPLES)))
def test_another_rounding_is_disproved(example: int) -> None:
    def rewrite(self: Any, op: Any, plan: Any) -> Any:
        y = _REAL.rewrite(op, plan)
        op.nodes[0].attributes.add(ir.AttrString("nearest_mode", "ceil"))
        return y

    assert_disproved(mutate(SpellUpsample, rewrite=rewrite), spell_upsample.EXAMPLES[example])


@pytest.mark.parametrize(
    "nodes",
    [
        # The axis of 1 before the rows, not behind: whole images are repeated.
        "a = Reshape(x, before) b = Tile(a, second) z = Reshape(b, rows)",
        "a = Concat <axis = 2> (x, x) z = Reshape(a, rows)",
        # Rows and columns swapped on the way.
        "a = Unsqueeze(x, row) b = Tile(a, third) c = Transpose <perm = [0, 1, 3, 2, 4]> (b) "
        "z = Reshape(c, rows)",
        "a = Unsqueeze(x, row) b = Concat <axis = 2> (a, a) z = Reshape(b, rows)",
    ],
)
def test_what_is_no_repetition_of_pixels_is_disproved(nodes: str) -> None:
    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        if len(root.graph) > 1 and root is not root.graph[-1]:
            return _REAL.find(root, opset)
        return Site(tuple(root.graph), (root.graph.inputs[0], (2, 1), None))

    assert_disproved(
        mutate(SpellUpsample, find=find),
        f"""<ir_version: 8, opset_import: ["" : 18]> g (float[N, 2, 5, 7] x) => (float[] z)
        <int64[5] before = {{0, 2, 1, 5, 7}}, int64[5] second = {{1, 1, 2, 1, 1}},
         int64[1] row = {{3}}, int64[5] third = {{1, 1, 1, 2, 1}}, int64[4] rows = {{0, 0, 10, 7}}>
        {{ {nodes} }}""",
    )
