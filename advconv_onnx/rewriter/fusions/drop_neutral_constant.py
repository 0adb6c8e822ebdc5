"""Drop an addition of zeros or a multiplication by ones.

    x + 0  =  x - 0  =  x * 1  =  x / 1  =  x

Refused when it could widen x: the constant's rank must be at most that
of x, with size 1 in every dimension whose size in x is not known to be the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import onnx_ir as ir

from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site

_NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}


class DropNeutralConstant(Rule):
    """x * 1 -> x."""

    name = "drop_neutral_constant"
    affine_in_weights = False
    needs_shapes = True

    def patterns(self) -> Iterable[Callable[..., Any]]:
        def pattern_of(element: str, swapped: bool) -> Callable[..., Any]:
            def pattern(op: Any, x: Any, c: Any) -> Any:
                return getattr(op, element)(*((c, x) if swapped else (x, c)))

            return pattern

        yield from itertools.starmap(pattern_of, itertools.product(_NEUTRAL, (False,)))
        yield from itertools.starmap(pattern_of, itertools.product(("Add", "Mul"), (True,)))

    def check(self, site: Site) -> None:
        array = constant(site["c"])
        if array is None or (array != _NEUTRAL[site.root.op_type]).any():
            raise NoSite
        shape = site["x"].shape
        if array.ndim == 0:
            return
        if shape is None or array.ndim > len(shape):
            raise Refused(f"the rank of '{site['x'].name}' is unknown, the constant might widen it")
        sizes = zip(array.shape, shape[len(shape) - array.ndim :], strict=True)
        if any(mine not in (1, theirs) for mine, theirs in sizes):
            raise Refused("the constant might widen its operand")

    def rewrite(self, op: Any, site: Site, plan: None) -> ir.Value:
        result: ir.Value = op.Identity(site["x"])
        return result


RULE = DropNeutralConstant()


def _model(node: str, constant: str, x: str = "float[N, 3, H, W] x") -> str:
    return f"""<ir_version: 8, opset_import: ["" : 13]>
    g ({x}) => (float[N, 3, H, W] z) <{constant}> {{ {node} }}"""


EXAMPLES = (
    _model("z = Mul(x, c)", "float[1] c = {1}"),
    _model("z = Add(c, x)", "float[3, 1, 1] c = {0, 0, 0}"),
    _model("z = Sub(x, c)", "float c = {0}"),
    _model("z = Div(x, c)", "float[1, 3, 1, 1] c = {1, 1, 1}"),
)

NEAR_MISSES = (
    (_model("z = Mul(x, c)", "float[3, 1, 1] c = {1, 1, 2}"), ""),
    (_model("z = Sub(c, x)", "float c = {0}"), ""),
    (_model("z = Add(x, c)", "float[1, 3, 1, 1] c = {0, 0, 0}", "float[N, 1, H, W] x"), "widen"),
    (_model("z = Add(x, c)", "float[3] c = {0, 0, 0}"), "widen"),
    (_model("z = Mul(x, c)", "float[1, 1, 1, 1, 1] c = {1}"), "widen"),
)
