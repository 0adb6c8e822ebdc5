"""Spell a decomposed hard-swish as the operator HardSwish (opset 14).

    x * clip(x + 3, 0, 6) / 6  =  x * HardSigmoid(x; 1/6, 1/2)  =  HardSwish(x)

in every order and grouping of the factors, the division by 6 also as a multiplication by 1/6. ONNX
Runtime fuses HardSwish into the convolution before it; the four element-wise operators leave its
blocked layout and pass over memory four times. Refused when the constants are others or could widen
x, and when an intermediate value is read elsewhere.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import onnx_ir as ir

from advconv_onnx.rewriter.constants import rank_of, scalar
from advconv_onnx.rewriter.rule import Refused, Rule, Site

_TOLERANCE = 1e-6
"""Relative: 1/6 is not exact in float32, and exporters round it differently."""


class SpellHardswish(Rule):
    """x * clip(x + 3, 0, 6) / 6 -> HardSwish(x)."""

    name = "spell_hardswish"
    affine_in_weights = False
    needs_any_of = frozenset(("Clip", "HardSigmoid"))
    minimum_opset = 14

    def patterns(self) -> Iterable[Callable[..., Any]]:
        def clipped(op: Any, x: Any, three: Any, swap: bool) -> Any:
            shifted = op.Add(*((three, x) if swap else (x, three)))
            return op.Clip(
                shifted, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["clip"]
            )

        def scaled(op: Any, y: Any, sixth: Any, by: str) -> Any:
            if by == "divide":
                return op.Div(y, sixth, _outputs=["scale"])
            return op.Mul(*((sixth, y) if by == "swap" else (y, sixth)), _outputs=["scale"])

        def outside(swap: bool, order: bool, by: str) -> Callable[..., Any]:
            def pattern(op: Any, x: Any, three: Any, sixth: Any) -> Any:
                factor = clipped(op, x, three, swap)
                return scaled(op, op.Mul(*((factor, x) if order else (x, factor))), sixth, by)

            return pattern

        def inside(swap: bool, order: bool, by: str) -> Callable[..., Any]:
            def pattern(op: Any, x: Any, three: Any, sixth: Any) -> Any:
                factor = scaled(op, clipped(op, x, three, swap), sixth, by)
                return op.Mul(*((factor, x) if order else (x, factor)))

            return pattern

        def early(swap: bool, order: bool, by: str) -> Callable[..., Any]:
            def pattern(op: Any, x: Any, three: Any, sixth: Any) -> Any:
                factor = clipped(op, x, three, swap)
                y = scaled(op, x, sixth, by)
                return op.Mul(*((factor, y) if order else (y, factor)))

            return pattern

        def gate(order: bool) -> Callable[..., Any]:
            def pattern(op: Any, x: Any) -> Any:
                factor = op.HardSigmoid(x, _allow_other_attributes=True, _outputs=["sigmoid"])
                return op.Mul(*((factor, x) if order else (x, factor)))

            return pattern

        choices = list(
            itertools.product((False, True), (False, True), ("divide", "multiply", "swap"))
        )
        for form in (outside, inside, early):
            yield from itertools.starmap(form, choices)
        yield from map(gate, (False, True))

    def check(self, site: Site) -> None:
        if "sigmoid" in site.values:
            attributes = site["sigmoid"].producer().attributes
            alpha, beta = attributes.get_float("alpha", 0.2), attributes.get_float("beta", 0.5)
            if not _close(alpha, 1 / 6) or not _close(beta, 0.5):
                raise Refused(f"HardSigmoid has alpha={alpha:g}, beta={beta:g}")
            return
        rank = rank_of(site["x"])
        low, high = _bounds(site["clip"].producer(), rank)
        scale = scalar(site["sixth"], rank)
        if scale is not None and site["scale"].producer().op_type == "Div":
            scale = 1 / scale if scale else None
        found = (scalar(site["three"], rank), low, high, scale)
        wanted = (3.0, 0.0, 6.0, 1 / 6)
        if not all(a is not None and _close(a, b) for a, b in zip(found, wanted, strict=True)):
            raise Refused(f"shift, bounds and factor are {found}, not 3, 0, 6 and 1/6")

    def rewrite(self, op: Any, site: Site, plan: None) -> ir.Value:
        result: ir.Value = op.HardSwish(site["x"])
        return result


def _bounds(clip: ir.Node, rank: int | None) -> tuple[float | None, float | None]:
    if len(clip.inputs) == 1:  # attributes, before opset 11
        return clip.attributes.get_float("min", None), clip.attributes.get_float("max", None)
    given = [*clip.inputs[1:3], None, None][:2]
    low, high = (scalar(value, rank) for value in given)
    return low, high


def _close(found: float, wanted: float) -> bool:
    return math.isclose(found, wanted, rel_tol=_TOLERANCE)


RULE = SpellHardswish()


def _model(nodes: str, six: str = "6", opset: int = 14, out: str = "float[N, C, H, W] z") -> str:
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g (float[N, C, H, W] x) => ({out})
    <float three = {{3}}, float lo = {{0}}, float hi = {{6}}, float[1] six = {{{six}}}>
    {{ {nodes} }}"""


EXAMPLES = (
    _model("a = Add(x, three) b = Clip(a, lo, hi) c = Mul(x, b) z = Div(c, six)"),
    _model("a = Add(three, x) b = Clip(a, lo, hi) c = Mul(six, b) z = Mul(c, x)", "0.16666667"),
    _model("a = Add(x, three) b = Clip(a, lo, hi) c = Div(x, six) z = Mul(c, b)"),
    _model("b = HardSigmoid <alpha = 0.16666667> (x) z = Mul(b, x)"),
)

NEAR_MISSES = (
    (_model("a = Add(x, three) b = Clip(a, lo, hi) c = Mul(x, b) z = Div(c, six)", "5"), "not 3"),
    (_model("a = Add(x, lo) b = Clip(a, lo, hi) c = Mul(x, b) z = Div(c, six)"), "not 3"),
    (_model("a = Add(x, three) b = Clip(a, , hi) c = Mul(x, b) z = Div(c, six)"), "not 3"),
    (_model("b = HardSigmoid(x) z = Mul(b, x)"), "alpha=0.2"),
    (
        _model(
            "a = Add(x, three) b = Clip(a, lo, hi) c = Mul(x, b) z = Div(c, six) v = Relu(b)",
            out="float[N, C, H, W] z, float[N, C, H, W] v",
        ),
        "also read by",
    ),
    (
        _model("a = Add(x, three) b = Clip(a, lo, hi) c = Mul(x, b) z = Div(c, six)", opset=13),
        "opset 14",
    ),
    # Bounds as attributes: waits for a newer opset.
    (
        _model(
            "a = Add(x, three) b = Clip <min = 0.0, max = 6.0> (a) c = Mul(x, b) z = Div(c, six)",
            opset=9,
        ),
        "opset 14",
    ),
    (
        _model(
            "a = Add(x, three) b = Clip <min = 0.0, max = 5.0> (a) c = Mul(x, b) z = Div(c, six)",
            opset=9,
        ),
        "not 3",
    ),
)
