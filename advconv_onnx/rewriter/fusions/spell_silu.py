"""Spell a SiLU (swish) as x * Sigmoid(x).

    x / (1 + exp(-x))  =  Swish(x; alpha=1)  =  x * Sigmoid(x)

ONNX Runtime 1.32 fuses Mul(x, Sigmoid(x)) into one operator that stays in its blocked layout. It
has no kernel for opset 24's Swish, which it inlines with two Casts (a block with it takes 1.1 to
1.6 times as long, ``benchmarks/spellings.py``), so the pair is the canonical spelling, and Swish is
brought back to it. Refused for other constants and when an intermediate value is read elsewhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import onnx_ir as ir

from advconv_onnx.rewriter.constants import rank_of, scalar
from advconv_onnx.rewriter.rule import Refused, Rule, Site


class SpellSilu(Rule):
    """x / (1 + exp(-x)) -> x * Sigmoid(x)."""

    name = "spell_silu"
    affine_in_weights = False
    needs_any_of = frozenset(("Exp", "Swish"))

    def patterns(self) -> Iterable[Callable[..., Any]]:
        def quotient(swap: bool) -> Callable[..., Any]:
            def pattern(op: Any, x: Any, one: Any) -> Any:
                power = op.Exp(op.Neg(x))
                return op.Div(x, op.Add(*((one, power) if swap else (power, one))))

            return pattern

        def product(swap: bool, order: bool) -> Callable[..., Any]:
            def pattern(op: Any, x: Any, one: Any) -> Any:
                power = op.Exp(op.Neg(x))
                sigmoid = op.Reciprocal(op.Add(*((one, power) if swap else (power, one))))
                return op.Mul(*((sigmoid, x) if order else (x, sigmoid)))

            return pattern

        def swish(op: Any, x: Any) -> Any:
            return op.Swish(x, _allow_other_attributes=True)

        yield from map(quotient, (False, True))
        yield from itertools.starmap(product, itertools.product((False, True), (False, True)))
        yield swish

    def check(self, site: Site) -> None:
        if "one" in site.values:
            one = scalar(site["one"], rank_of(site["x"]))
            if one != 1:
                raise Refused(f"the constant added to exp(-x) is {one}, not 1")
        elif (alpha := site.root.attributes.get_float("alpha", 1.0)) != 1:
            raise Refused(f"Swish has alpha={alpha:g}")

    def rewrite(self, op: Any, site: Site, plan: None) -> ir.Value:
        result: ir.Value = op.Mul(site["x"], op.Sigmoid(site["x"]))
        return result


RULE = SpellSilu()


def _model(nodes: str, one: str = "1", opset: int = 14) -> str:
    return f"""<ir_version: 10, opset_import: ["" : {opset}]>
    g (float[N, C, H, W] x) => (float[N, C, H, W] z) <float one = {{{one}}}> {{ {nodes} }}"""


EXAMPLES = (
    _model("a = Neg(x) b = Exp(a) c = Add(b, one) z = Div(x, c)"),
    _model("a = Neg(x) b = Exp(a) c = Add(one, b) d = Reciprocal(c) z = Mul(d, x)"),
    _model("z = Swish(x)", opset=24),
)

NEAR_MISSES = (
    (_model("a = Neg(x) b = Exp(a) c = Add(b, one) z = Div(x, c)", one="2"), "not 1"),
    (_model("z = Swish <alpha = 1.5> (x)", opset=24), "alpha=1.5"),
    (_model("a = Exp(x) b = Add(a, one) z = Div(x, b)"), ""),
)
