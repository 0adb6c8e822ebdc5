"""Mutants of the rules about InstanceNormalization and LayerNormalization."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from advconv_onnx.rewriter.affine import Affine
from advconv_onnx.rewriter.fusions import (
    fold_affine_into_instance_norm,
    fold_affine_into_layer_norm,
    spell_instance_norm,
    spell_layer_norm,
)
from advconv_onnx.rewriter.rule import Site
from tests.rewriter.fusions.disproving import assert_disproved, mutate

SPELLINGS = (spell_instance_norm, spell_layer_norm)
FOLDS = (fold_affine_into_instance_norm, fold_affine_into_layer_norm)


def examples(modules: Any) -> list[Any]:
    return [
        pytest.param(module, text, id=f"{module.RULE.name}-{index}")
        for module in modules
        for index, text in enumerate(module.EXAMPLES)
    ]


@pytest.mark.parametrize(("module", "text"), examples(SPELLINGS))
def test_another_epsilon_is_disproved(module: Any, text: str) -> None:
    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        site = module.RULE.find(root, opset)
        x, sizes, epsilon, *others = site.plan
        return dataclasses.replace(site, plan=(x, sizes, 2 * epsilon + 0.1, *others))

    assert_disproved(mutate(type(module.RULE), find=find), text)


def test_channels_that_stay_behind_are_disproved() -> None:
    def rewrite(self: Any, op: Any, plan: Any) -> Any:
        return spell_layer_norm.RULE.rewrite(op, (*plan[:3], False))

    mutant = mutate(type(spell_layer_norm.RULE), rewrite=rewrite)
    assert_disproved(mutant, spell_layer_norm.EXAMPLES[6].replace("4, H, W", "4, H, 4"))


@pytest.mark.parametrize("text", spell_layer_norm.EXAMPLES)
def test_another_axis_is_disproved(text: str) -> None:
    def rewrite(self: Any, op: Any, plan: Any) -> Any:
        x, sizes, epsilon, _ = plan
        ones = op.initializer(np.ones(1, np.float32), "scale")
        return op.LayerNormalization(x, ones, axis=-len(sizes) - 1, epsilon=epsilon)

    assert_disproved(mutate(type(spell_layer_norm.RULE), rewrite=rewrite), text)


@pytest.mark.parametrize(
    "nodes",
    [
        "m = ReduceMean(x, s) d = Sub(x, m) p = Mul(d, d) v = ReduceMean(p, c) a = Add(v, e) "
        "q = Sqrt(a) z = Div(d, q)",
        "m = ReduceMean(x, c) d = Sub(x, m) p = Mul(d, d) v = ReduceMean(p, c) a = Add(v, e) "
        "q = Sqrt(a) z = Div(d, q)",
        "m = ReduceMean(x, s) d = Sub(x, m) p = Mul(x, x) v = ReduceMean(p, s) a = Add(v, e) "
        "q = Sqrt(a) z = Div(d, q)",
        "m = ReduceMean(x, s) d = Sub(x, m) p = Mul(d, d) v = ReduceMean(p, s) a = Add(v, e) "
        "q = Sqrt(a) z = Div(x, q)",
        "m = ReduceMean(x, s) d = Sub(m, x) p = Mul(d, d) v = ReduceMean(p, s) a = Add(v, e) "
        "q = Sqrt(a) z = Div(d, q)",
        "m = ReduceMean(x, s) d = Sub(x, m) p = Mul(d, d) v = ReduceSum(p, s) a = Add(v, e) "
        "q = Sqrt(a) z = Div(d, q)",
        "m = ReduceMean(x, s) d = Sub(x, m) p = Mul(d, d) v = ReduceMean(p, s) q = Sqrt(v) "
        "a = Add(q, e) z = Div(d, a)",
    ],
)
def test_what_is_nearly_a_normalization_is_disproved(nodes: str) -> None:
    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        return Site(tuple(root.graph), (root.graph.inputs[0], 3, 0.25))

    assert_disproved(
        mutate(type(spell_instance_norm.RULE), find=find, roots=frozenset(("Div",))),
        f"""<ir_version: 8, opset_import: ["" : 18]> g (float[N, 3, H, W] x) => (float[] z)
        <int64[2] s = {{2, 3}}, int64[1] c = {{1}}, float e = {{0.25}}> {{ {nodes} }}""",
    )


@pytest.mark.parametrize(("module", "text"), examples(FOLDS))
@pytest.mark.parametrize(
    "change",
    [
        lambda a: Affine(a.scale, a.shift + 0.01),
        lambda a: Affine(-a.scale, a.shift),
        lambda a: Affine(a.scale * 1.01, a.shift),
        lambda a: Affine(np.abs(a.scale) + 1, a.shift),
    ],
)
def test_another_scale_or_shift_is_disproved(change: Any, module: Any, text: str) -> None:
    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        site = module.RULE.find(root, opset)
        norm, affine = site.plan
        return dataclasses.replace(site, plan=(norm, change(affine)))

    assert_disproved(mutate(type(module.RULE), find=find), text)


@pytest.mark.parametrize(("module", "index"), [(FOLDS[0], 0), (FOLDS[1], 0)])
def test_a_constant_along_another_axis_is_disproved(module: Any, index: int) -> None:
    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        norm = module.Normalization.of(root.inputs[0].producer())
        numbers = root.inputs[1].const_value.numpy().reshape(-1).astype(np.float64)
        return Site((norm.node, root), (norm, Affine(numbers, np.zeros(3))))

    assert_disproved(mutate(type(module.RULE), find=find), module.NEAR_MISSES[index][0])
