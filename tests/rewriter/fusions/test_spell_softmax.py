"""Mutants of the three rules about Softmax: another axis, the semantics of old opsets."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from advconv_onnx.rewriter.fusions import (
    spell_log_softmax,
    spell_softmax,
    spell_strided_softmax,
    spell_transposed_softmax,
)
from advconv_onnx.rewriter.fusions.spell_log_softmax import SpellLogSoftmax
from advconv_onnx.rewriter.fusions.spell_softmax import SpellSoftmax
from advconv_onnx.rewriter.fusions.spell_strided_softmax import SpellStridedSoftmax
from advconv_onnx.rewriter.fusions.spell_transposed_softmax import SpellTransposedSoftmax
from advconv_onnx.rewriter.rule import NoSite, Site
from tests.rewriter.fusions.disproving import assert_disproved, mutate


@pytest.mark.parametrize("example", range(len(spell_strided_softmax.EXAMPLES)))
@pytest.mark.parametrize("kind", ["last", "flattened", "one axis more", "other operator"])
def test_another_axis_is_disproved(example: int, kind: str) -> None:
    def rewrite(self: Any, op: Any, plan: Any) -> Any:
        x, op_type, axis = plan
        kept = axis if kind in ("flattened", "one axis more") else axis + 1
        if kind == "one axis more" and axis == 0:
            kept = 1
        target = [0] * kept + [-1]
        merged = op.Reshape(x, op.initializer(np.array(target), "merged"))
        if kind == "other operator":
            op_type = "Softmax" if op_type == "LogSoftmax" else "LogSoftmax"
        over = axis if kind == "other operator" else len(target) - 1
        return op.Reshape(op.node(op_type, [merged], {"axis": over}).outputs[0], op.Shape(x))

    assert_disproved(
        mutate(SpellStridedSoftmax, rewrite=rewrite), spell_strided_softmax.EXAMPLES[example]
    )


def test_merging_axes_in_an_old_opset_is_disproved() -> None:
    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        return Site((root,), (root.inputs[0], "Softmax", 1))

    def rewrite(self: Any, op: Any, plan: Any) -> Any:
        """Over the one axis, as it would be right since opset 13."""
        e = op.Exp(plan[0])
        return op.Div(e, op.ReduceSum(e, axes=[1]))

    mutant = mutate(SpellStridedSoftmax, find=find, rewrite=rewrite)
    text = '<ir_version: 8, opset_import: ["" : 11]> g (float[N, 4, H, W] x) => (float[] z)'
    assert_disproved(mutant, f"{text} {{ z = Softmax <axis = 1> (x) }}")


@pytest.mark.parametrize("example", range(len(spell_log_softmax.EXAMPLES)))
def test_a_logarithm_with_another_axis_or_none_is_disproved(example: int) -> None:
    text = spell_log_softmax.EXAMPLES[example]
    other = 2 if example in (0, 2) else 1
    for build in (
        lambda op, x, attributes: op.LogSoftmax(x, axis=other),
        lambda op, x, attributes: op.Softmax(x, **attributes),
    ):
        mutant = mutate(
            SpellLogSoftmax, rewrite=lambda self, op, plan, build=build: build(op, *plan)
        )
        assert_disproved(mutant, text)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("example", range(len(spell_softmax.EXAMPLES)))
def test_a_softmax_over_another_axis_is_disproved(example: int, axis: int) -> None:
    real = SpellSoftmax()

    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        site = real.find(root, opset)
        x, last = site.plan
        return dataclasses.replace(site, plan=(x, axis if axis != last else 0))

    assert_disproved(mutate(SpellSoftmax, find=find), spell_softmax.EXAMPLES[example])


@pytest.mark.parametrize(
    "nodes",
    [
        "m = ReduceMax(x, last) d = Sub(x, m) e = Exp(d) s = ReduceSum(e, one) z = Div(e, s)",
        "m = ReduceMax(x, last) d = Sub(x, m) e = Exp(x) s = ReduceSum(d, last) z = Div(e, s)",
        "m = ReduceMax(x, last) d = Sub(m, x) e = Exp(d) s = ReduceSum(e, last) z = Div(e, s)",
        "e = Exp(x) s = ReduceMean(e, last) z = Div(e, s)",
        "e = Exp(x) s = ReduceSum(e) z = Div(e, s)",
        "e = Exp(x) s = ReduceSum <keepdims = 0> (e, last) z = Div(e, s)",
        "e = Exp(x) s = ReduceSum(x, last) z = Div(e, s)",
        "e = Exp(x) s = ReduceSum(e, last) z = Div(s, e)",
    ],
)
def test_what_is_nearly_a_softmax_is_disproved(nodes: str) -> None:
    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        return Site(tuple(root.graph), (root.graph.inputs[0], 2))

    assert_disproved(
        mutate(SpellSoftmax, find=find),
        f"""<ir_version: 8, opset_import: ["" : 18]> g (float[N, 4, S] x) => (float[] z)
        <int64[1] last = {{-1}}, int64[1] one = {{1}}> {{ {nodes} }}""",
    )


@pytest.mark.parametrize("example", range(len(spell_transposed_softmax.EXAMPLES)))
def test_the_axis_after_the_transpose_is_another_one(example: int) -> None:
    real = SpellTransposedSoftmax()

    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        site = real.find(root, opset)
        x, op_type, axis = site.plan
        return dataclasses.replace(site, plan=(x, op_type, axis - 1))

    assert_disproved(
        mutate(SpellTransposedSoftmax, find=find), spell_transposed_softmax.EXAMPLES[example]
    )


@pytest.mark.parametrize("near_miss", [0, 1, 3])
def test_transposes_that_do_not_cancel_and_old_axes_are_disproved(near_miss: int) -> None:
    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        if root is not root.graph[-1]:
            raise NoSite
        return Site(tuple(root.graph), (root.graph.inputs[0], "Softmax", 1))

    assert_disproved(
        mutate(SpellTransposedSoftmax, find=find),
        spell_transposed_softmax.NEAR_MISSES[near_miss][0],
    )
