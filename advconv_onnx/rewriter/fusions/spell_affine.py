"""Spell a constant scale and shift that no convolution can take as one BatchNormalization.

    x * a + c  =  BatchNormalization(x; scale = a, bias = c, mean = 0, variance = 1 - epsilon)

with one a and c per channel: one pass over memory instead of two, and ONNX Runtime computes it in
its blocked layout (as a 1x1 depthwise convolution), which a constant Add leaves; next to a
convolution it then folds away. Refused when channels or rank are unknown, and when a constant
varies along another dimension than the channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.affine import Affine, elementwise
from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site

_EPSILON = 2.0**-20
"""Exact in float32, and so is 1 minus it, so that variance + epsilon is exactly 1."""


class SpellAffine(Rule):
    """Add(Mul(x, a), c) -> BatchNormalization(x)."""

    name = "spell_affine"

    def patterns(self) -> Iterable[Callable[..., Any]]:
        def pattern_of(
            outer: str, inner: str, outer_swap: bool, inner_swap: bool
        ) -> Callable[..., Any]:
            def pattern(op: Any, x: Any, a: Any, c: Any) -> Any:
                y = getattr(op, inner)(*((a, x) if inner_swap else (x, a)), _outputs=["y"])
                return getattr(op, outer)(*((c, y) if outer_swap else (y, c)))

            return pattern

        swaps = (False, True)
        return itertools.starmap(
            pattern_of, itertools.product(("Add", "Sub"), ("Mul", "Div"), swaps, swaps)
        )

    def check(self, site: Site) -> Affine:
        x, y = site["x"], site["y"]
        if x.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
            raise Refused(f"the type of '{x.name}' is {x.dtype}")
        if constant(x) is not None:
            raise NoSite
        if x.shape is None or len(x.shape) != 4 or not isinstance(x.shape[1], int):
            raise Refused(f"'{x.name}' is not known to be (N, C, H, W) with a fixed C")
        rank, channels = len(x.shape), x.shape[1]
        inner = elementwise(y.producer(), x, rank, channels)
        outer = elementwise(site.root, y, rank, channels)
        return Affine(inner.scale * outer.scale, inner.shift * outer.scale + outer.shift)

    def rewrite(self, op: Any, site: Site, plan: Affine) -> ir.Value:
        def weights(values: np.ndarray, name: str) -> ir.Value:
            value: ir.Value = op.initializer(values.astype(site["x"].dtype.numpy()), name)
            return value

        size = len(plan.scale)
        result: ir.Value = op.BatchNormalization(
            site["x"],
            weights(plan.scale, "scale"),
            weights(plan.shift, "shift"),
            weights(np.zeros(size), "mean"),
            weights(np.full(size, 1 - _EPSILON), "variance"),
            epsilon=_EPSILON,
        )
        return result


RULE = SpellAffine()


def _model(nodes: str, constants: str, x: str = "float[N, 3, H, W] x") -> str:
    return f"""<ir_version: 8, opset_import: ["" : 15]>
    g ({x}) => (float[N, 3, H, W] z) <{constants}> {{ {nodes} }}"""


EXAMPLES = (
    _model("y = Mul(a, x) z = Add(y, c)", "float[1] a = {2.5}, float[3, 1, 1] c = {1, -2, 3}"),
    _model("y = Div(x, a) z = Sub(c, y)", "float[1, 3, 1, 1] a = {2, 4, -1}, float c = {0.5}"),
)

NEAR_MISSES = (
    (_model("y = Mul(x, a) z = Add(y, c)", "float[3] a = {1, 2, 3}, float c = {1}"), "per channel"),
    (
        _model(
            "y = Mul(x, a) z = Add(y, c)", "float a = {2}, float c = {1}", "float[N, C, H, W] x"
        ),
        "fixed C",
    ),
    (
        _model(
            "y = Mul(x, a) z = Add(y, c)",
            "float[1, 3, 1, 1] a = {2, 3, 4}, float c = {1}",
            "float[N, 1, H, W] x",
        ),
        "per channel",
    ),
)
