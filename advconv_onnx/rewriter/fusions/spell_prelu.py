"""Spell PRelu as a maximum, for ONNX Runtime's CPU provider.

    PRelu(x, s)  =  max(x, s * x)   where all slopes s are at most 1

ONNX Runtime computes PRelu one element at a time: 2 to 9 times slower than the product and the
maximum, measured for maps of 4096 elements and more, after a convolution and elsewhere. Other
providers keep the one operator. Refused for a larger slope, for slopes that are not constant, for
small tensors and types other than float32. Slopes that are all equal are a LeakyRelu, the business
of ``spell_leaky_relu``.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.activations import require_elements
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import required
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site

_LARGE = 4096

Plan = tuple[ir.Value, ir.Value]


class SpellPrelu(Rule[Plan]):
    """PRelu(x, s) -> Max(x, x * s)."""

    name = "spell_prelu"
    roots = frozenset(("PRelu",))
    affine_in_weights = False
    needs_shapes = True
    minimum_opset = 8

    providers = frozenset(("cpu",))

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        x, given = root.inputs[0], root.inputs[1]
        if x is None or given is None:
            raise NoSite
        slopes = required(given, "slope")
        if slopes.size < 2 or (slopes == slopes.flat[0]).all():
            raise NoSite
        if x.dtype != ir.DataType.FLOAT:
            raise Refused(f"the type of '{x.name}' is {x.dtype or 'unknown'}")
        require_elements(x, _LARGE)
        if not (slopes <= 1).all():
            raise Refused(f"a slope is {np.nanmax(slopes):g}, more than 1")
        return Site((root,), (x, given))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        x, slopes = plan
        return op.Max(x, op.Mul(x, slopes))


RULE = SpellPrelu()


def _model(slopes: str, x: str = "float[N, 3, H, W] x", opset: int = 16) -> str:
    type_ = x.split("[")[0]
    return f"""<ir_version: 8, opset_import: ["" : {opset}]> g ({x}) => ({type_}[] z)
    <{type_}{slopes}> {{ z = PRelu(x, s) }}"""


EXAMPLES = (
    _model("[3, 1, 1] s = {-1, 0, 1}"),
    _model("[1, 3, 1, 1] s = {-5, 0, 1}", opset=9),
    _model("[3, 1] s = {1, 0, -1}", "float[N, 3, L] x"),
    # As many slopes as channels, along the width: PRelu and Mul broadcast alike.
    _model("[3] s = {1, 0, -1}", "float[N, 3, H, 3] x"),
    _model("[3, 1, 1] s = {-1, 0, 1}", "float[N, 3, 40, 40] x"),
)

NEAR_MISSES = (
    (_model("[3, 1, 1] s = {-1, 0, 2}"), "a slope is 2"),
    (_model("[3, 1, 1] s = {-1, 0, 1}", "float[N, 3, 30, 40] x"), "fewer than"),
    (_model("[3, 1, 1] s = {-1, 0, 1}", "double[N, 3, H, W] x"), "DOUBLE"),
    (_model("[3, 1, 1] s = {0, 0, 0}"), ""),
    (_model("[1] s = {-1}"), ""),
    (
        """<ir_version: 8, opset_import: ["" : 16]>
        g (float[N, 3, H, W] x, float[3, 1, 1] s) => (float[] z) { z = PRelu(x, s) }""",
        "not constant",
    ),
)
