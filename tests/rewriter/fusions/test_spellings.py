"""Mutants of rules that spell operators as another one: constants and modes nearly right.

A mutant here takes every site of its kind, whatever the constants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.fusions.spell_gelu import SpellGelu
from advconv_onnx.rewriter.fusions.spell_global_pool import SpellGlobalPool
from advconv_onnx.rewriter.fusions.spell_hardswish import SpellHardswish
from advconv_onnx.rewriter.fusions.spell_resize import SpellResize
from advconv_onnx.rewriter.fusions.spell_silu import SpellSilu
from advconv_onnx.rewriter.rule import Rule
from tests.rewriter.fusions.disproving import mutate
from tests.rewriter.fusions.mutants import Case, certificate, disprove, mutants, site, whole

Build = Callable[[Builder, ir.Value], ir.Value]


def spell(parent: type[Rule[Any]], build: Build) -> Rule[Any]:
    """The rule without its refusals, writing ``build(op, x)``."""
    return mutate(
        parent,
        find=whole(lambda root: root.graph.inputs[0]),
        rewrite=lambda self, op, x: build(op, x),
    )


def number(op: Builder, value: float) -> ir.Value:
    return op.initializer(np.float32(value), "number")


# Hard-swish


def hardswish(
    three: float = 3, low: float = 0, high: float = 6, six: float = 6, opset: int = 15
) -> ir.Model:
    nodes = "a = Add(x, t) b = Clip(a, lo, hi) d = Mul(x, b) z = Div(d, q)"
    return site(nodes, opset=opset, t=three, lo=low, hi=high, q=six)


TO_HARDSWISH = spell(SpellHardswish, lambda op, x: op.HardSwish(x))
NO_HARDSWISH = {
    "divided by 5": hardswish(six=5),
    "clipped at 6.01": hardswish(high=6.01),
    "clipped below 0": hardswish(low=-0.01),
    "shifted by 2.99": hardswish(three=2.99),
    "constants that are pairwise swapped": hardswish(three=6, six=3),
    "HardSigmoid of the default alpha": site("a = HardSigmoid(x) z = Mul(x, a)"),
}


def cases_of_hardswish() -> Iterator[Case]:
    for name, model in NO_HARDSWISH.items():
        yield f"HardSwish {name}", TO_HARDSWISH, model

    def relu6(op: Builder, x: ir.Value) -> ir.Value:
        return op.Clip(x, number(op, 0), number(op, 6))

    yield "Relu6", spell(SpellHardswish, relu6), hardswish()
    yield "HardSigmoid", spell(SpellHardswish, lambda op, x: op.HardSigmoid(x)), hardswish()
    factor_lost = mutate(
        SpellHardswish,
        rewrite=lambda self, op, plan: op.HardSwish(plan[0]),
    )
    yield "HardSwish without its factor", factor_lost, hardswish(six=5)
    inverse = mutate(
        SpellHardswish,
        rewrite=lambda self, op, plan: op.Mul(op.HardSwish(plan[0]), number(op, 1 / plan[1])),
    )
    yield "HardSwish divided by its factor", inverse, hardswish(six=5)
    early = mutate(SpellHardswish, minimum_opset=1)
    yield "HardSwish before opset 14", early, hardswish(opset=13)


# GELU


def gelu(half: float = 0.5, root: float = 2**0.5, opset: int = 20) -> ir.Model:
    nodes = "a = Div(x, r) b = Erf(a) d = Add(b, one) e = Mul(x, d) z = Mul(e, h)"
    return site(nodes, opset=opset, r=root, one=1, h=half)


GELU_TANH = site(
    "a = Pow(x, t) b = Mul(k, a) d = Add(x, b) e = Mul(d, s) f = Tanh(e) i = Add(f, one) "
    "j = Mul(x, i) z = Mul(j, h)",
    opset=20, t=3, k=0.044715, s=0.797884583, one=1, h=0.5,
)  # fmt: skip


def cases_of_gelu() -> Iterator[Case]:
    tanh = spell(SpellGelu, lambda op, x: op.Gelu(x, approximate="tanh"))
    erf = spell(SpellGelu, lambda op, x: op.Gelu(x, approximate="none"))
    yield "tanh for erf", tanh, gelu()
    yield "erf for tanh", erf, GELU_TANH
    yield "Gelu with another half", erf, gelu(half=0.4999)
    yield "Gelu with another root", erf, gelu(root=1.702**0.5)
    factor_lost = mutate(SpellGelu, rewrite=lambda self, op, plan: op.Gelu(plan[0]))
    yield "Gelu without its factor", factor_lost, gelu(half=1)
    yield "Gelu before opset 20", mutate(SpellGelu, minimum_opset=1), gelu(opset=19)


# SiLU


def silu(one: float = 1) -> ir.Model:
    return site("a = Neg(x) b = Exp(a) d = Add(b, one) z = Div(x, d)", one=one)


def cases_of_silu() -> Iterator[Case]:
    product = spell(SpellSilu, lambda op, x: op.Mul(x, op.Sigmoid(x)))
    yield "SiLU with another one", product, silu(1.01)
    yield "Swish of another alpha", product, site("z = Swish <alpha = 1.01> (x)", opset=24)
    yield "Sigmoid for SiLU", spell(SpellSilu, lambda op, x: op.Sigmoid(x)), silu()
    yield "HardSwish for SiLU", spell(SpellSilu, lambda op, x: op.HardSwish(x)), silu()


# Means


def mean(axes: str = "2, 3", keep: int = 1, x: str = "N, 4, H, W") -> ir.Model:
    return site(f"z = ReduceMean <axes = [{axes}], keepdims = {keep}> (x)", x, 13)


def cases_of_global_pool() -> Iterator[Case]:
    pool = spell(SpellGlobalPool, lambda op, x: op.GlobalAveragePool(x))
    yield "mean over one axis", pool, mean("2")
    yield "mean over channels", pool, mean("1")
    yield "mean over everything", pool, mean("0, 1, 2, 3")
    yield "mean without keepdims", pool, mean(keep=0)
    yield "mean over two of three axes", pool, mean(x="N, 4, D, H, W")
    maximum = spell(SpellGlobalPool, lambda op, x: op.GlobalMaxPool(x))
    yield "maximum for mean", maximum, mean()


# Resizes

FLOOR = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
LINEAR = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}


def resize(attributes: str, scales: Any = (1, 1, 2, 3), x: str = "N, 4, H, W") -> ir.Model:
    return site(f"z = Resize <{attributes}> (x, , s)", x, 18, s=np.array(scales, np.float32))


def to_resize(attributes: dict[str, str], scales: Any = (1, 1, 2, 3)) -> Rule[Any]:
    def build(op: Builder, x: ir.Value) -> ir.Value:
        return op.Resize(x, None, op.initializer(np.array(scales, np.float32), "s"), **attributes)

    return spell(SpellResize, build)


def placed(mode: str, placement: str) -> str:
    return f'mode = "{mode}", coordinate_transformation_mode = "{placement}"'


def cases_of_resize() -> Iterator[Case]:
    floor, linear = to_resize(FLOOR), to_resize(LINEAR)
    half, quarter = (1, 1, 0.5, 0.5), (1, 1, 0.25, 0.25)
    yield "ceil as floor", floor, resize('nearest_mode = "ceil"')
    yield "aligned corners as floor", floor, resize(placed("nearest", "align_corners"))
    yield "scale 1.5 as floor", to_resize(FLOOR, (1, 1, 2, 2)), resize("", (1, 1, 1.5, 2))
    fraction = (1, 1, 1.25, 2)  # At 1.5 the two are equal.
    yield "a fractional scale kept", to_resize(FLOOR, fraction), resize("", fraction)
    yield "scales swapped", to_resize(FLOOR, (1, 1, 3, 2)), resize("")
    yield "linear as nearest", floor, resize('mode = "linear"')
    yield "asymmetric as half_pixel", linear, resize(placed("linear", "asymmetric"))
    yield "aligned corners as half_pixel", linear, resize(placed("linear", "align_corners"))
    yield "cubic as linear", linear, resize('mode = "cubic"')
    yield "shrinking, rounded down", to_resize(FLOOR, quarter), resize("", quarter)
    sizes = site("z = Resize(x, , , n)", opset=18, n=np.array([1, 4, 10, 21]))
    yield "sizes as scales that only fit one size", floor, sizes
    yield (
        "one pixel, which pytorch_half_pixel treats apart",
        to_resize(LINEAR, half),
        resize(placed("linear", "pytorch_half_pixel"), half, "1, 4, 2, 3"),
    )


def cases() -> Iterator[Case]:
    yield from cases_of_hardswish()
    yield from cases_of_gelu()
    yield from cases_of_silu()
    yield from cases_of_global_pool()
    yield from cases_of_resize()


@mutants(cases())
def test_a_mutant_is_disproved(mutant: Rule[Any], model: ir.Model, seeds: range) -> None:
    disprove(mutant, model, seeds)


@pytest.mark.parametrize(
    ("rule", "model"),
    [
        (TO_HARDSWISH, hardswish()),
        (spell(SpellGelu, lambda op, x: op.Gelu(x, approximate="none")), gelu()),
        (spell(SpellGelu, lambda op, x: op.Gelu(x, approximate="tanh")), GELU_TANH),
        (spell(SpellSilu, lambda op, x: op.Mul(x, op.Sigmoid(x))), silu()),
        (spell(SpellGlobalPool, lambda op, x: op.GlobalAveragePool(x)), mean()),
        (to_resize(FLOOR), resize("")),
        (to_resize(LINEAR), resize(placed("linear", "pytorch_half_pixel"))),
    ],
)
def test_without_a_mistake_the_same_is_proved(rule: Rule[Any], model: ir.Model) -> None:
    assert "float64 difference" in certificate(rule, model)
