"""Spell a decomposed GELU as the operator Gelu (opset 20).

    x * (1 + erf(x / sqrt 2)) / 2                             =  Gelu(x)
    x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2     =  Gelu(x; approximate=tanh)

in every order and grouping of the factors. ONNX Runtime keeps Gelu in its blocked layout after a
convolution. Refused for other constants and when an intermediate value is read elsewhere.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import onnx_ir as ir

from advconv_onnx.rewriter.constants import rank_of, scalar
from advconv_onnx.rewriter.rule import Refused, Rule, Site

_TOLERANCE = 1e-4
"""Relative: exporters write 1 / sqrt(2) with as few as four digits (0.7071)."""

_WANTED = {
    "half": 0.5,
    "one": 1.0,
    "root": math.sqrt(2),
    "inverse_root": math.sqrt(0.5),
    "three": 3.0,
    "cubic": 0.044715,
    "slope": math.sqrt(2 / math.pi),
}


class SpellGelu(Rule):
    """x * (1 + erf(x / sqrt 2)) / 2 -> Gelu(x)."""

    name = "spell_gelu"
    affine_in_weights = False
    needs_any_of = frozenset(("Erf", "Tanh"))
    minimum_opset = 20

    def patterns(self) -> Iterable[Callable[..., Any]]:
        yield from _grouped(_erf_by_division, swaps=0)
        yield from _grouped(_erf_by_product, swaps=1)
        yield from _grouped(_tanh, swaps=3)

    def check(self, site: Site) -> str:
        rank = rank_of(site["x"])
        for name, value in site.values.items():
            if name in _WANTED:
                found = scalar(value, rank)
                if found is None or not math.isclose(found, _WANTED[name], rel_tol=_TOLERANCE):
                    raise Refused(f"a constant is {found}, not {_WANTED[name]:g}")
        return "tanh" if "slope" in site.values else "none"

    def rewrite(self, op: Any, site: Site, plan: str) -> ir.Value:
        result: ir.Value = op.Gelu(site["x"], approximate=plan)
        return result


def _pair(swap: bool, a: Any, b: Any) -> tuple[Any, Any]:
    return (b, a) if swap else (a, b)


def _erf_by_division(op: Any, x: Any, v: dict[str, Any], swaps: tuple[bool, ...]) -> Any:
    return op.Erf(op.Div(x, v["root"]))


def _erf_by_product(op: Any, x: Any, v: dict[str, Any], swaps: tuple[bool, ...]) -> Any:
    return op.Erf(op.Mul(*_pair(swaps[0], x, v["inverse_root"])))


def _tanh(op: Any, x: Any, v: dict[str, Any], swaps: tuple[bool, ...]) -> Any:
    cube = op.Mul(*_pair(swaps[0], op.Pow(x, v["three"]), v["cubic"]))
    return op.Tanh(op.Mul(*_pair(swaps[1], op.Add(*_pair(swaps[2], x, cube)), v["slope"])))


def _grouped(core: Callable[..., Any], swaps: int) -> Iterator[Callable[..., Any]]:
    """Yield x * (1 + core) * 0.5 in all three groupings and all orders of operands."""

    def half_last(op: Any, x: Any, half: Any, factor: Any, a: bool, b: bool) -> Any:
        return op.Mul(*_pair(a, op.Mul(*_pair(b, x, factor)), half))

    def half_with_factor(op: Any, x: Any, half: Any, factor: Any, a: bool, b: bool) -> Any:
        return op.Mul(*_pair(a, x, op.Mul(*_pair(b, factor, half))))

    def half_with_x(op: Any, x: Any, half: Any, factor: Any, a: bool, b: bool) -> Any:
        return op.Mul(*_pair(a, op.Mul(*_pair(b, x, half)), factor))

    for group in (half_last, half_with_factor, half_with_x):
        for a, b, c, *rest in itertools.product((False, True), repeat=3 + swaps):
            yield _pattern(core, group, (a, b), c, tuple(rest))


def _pattern(
    core: Callable[..., Any],
    group: Callable[..., Any],
    order: tuple[bool, bool],
    one_first: bool,
    swaps: tuple[bool, ...],
) -> Callable[..., Any]:
    def build(op: Any, x: Any, half: Any, one: Any, **constants: Any) -> Any:
        factor = op.Add(*_pair(one_first, core(op, x, constants, swaps), one))
        return group(op, x, half, factor, *order)

    # onnxscript reads a pattern's named values from its signature.
    if core is _erf_by_division:
        return lambda op, x, half, one, root: build(op, x, half, one, root=root)
    if core is _erf_by_product:
        return lambda op, x, half, one, inverse_root: build(
            op, x, half, one, inverse_root=inverse_root
        )
    return lambda op, x, half, one, three, cubic, slope: build(
        op, x, half, one, three=three, cubic=cubic, slope=slope
    )


RULE = SpellGelu()


def _model(nodes: str, half: str = "0.5", opset: int = 20) -> str:
    return f"""<ir_version: 10, opset_import: ["" : {opset}]>
    g (float[N, S] x) => (float[N, S] z)
    <float h = {{{half}}}, float one = {{1}}, float root = {{1.41421354}},
     float[1] inv = {{0.7071}},
     float three = {{3}}, float k = {{0.044715}}, float s = {{0.797884583}}> {{ {nodes} }}"""


EXAMPLES = (
    _model("a = Div(x, root) b = Erf(a) c = Add(b, one) d = Mul(x, c) z = Mul(d, h)"),
    _model("a = Mul(inv, x) b = Erf(a) c = Add(one, b) d = Mul(x, h) z = Mul(d, c)"),
    _model(
        "a = Pow(x, three) b = Mul(k, a) c = Add(x, b) d = Mul(c, s) e = Tanh(d) f = Add(e, one) "
        "i = Mul(h, f) z = Mul(x, i)"
    ),
)

NEAR_MISSES = (
    (_model("a = Div(x, root) b = Erf(a) c = Add(b, one) d = Mul(x, c) z = Mul(d, h)", "2"), "0.5"),
    (_model("a = Div(x, one) b = Erf(a) c = Add(b, one) d = Mul(x, c) z = Mul(d, h)"), "1.41421"),
    (
        _model("a = Div(x, root) b = Erf(a) c = Add(b, one) d = Mul(x, c) z = Mul(d, h)", opset=19),
        "opset 20",
    ),
)
