"""Spell a chain of constant scales and shifts as one BatchNormalization.

    ((x - m) * a + c) / d ...  =  BatchNormalization(x; scale, bias, mean = 0, variance = 1 - eps)

with one scale and one shift per channel, for a chain of two or more Add, Sub, Mul, Div and
BatchNormalization in any order, at the end of which nothing folds: one pass over memory instead of
several, and ONNX Runtime computes it in its blocked layout (as a 1x1 depthwise convolution), which
a constant Add leaves; next to a convolution it then folds away. The chain ends at a value that
something else reads. Refused when channels or rank are unknown, and when a constant varies along
another dimension than the channels. Only scales, or only shifts, are left to ``merge_constants``.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.affine import Affine, batchnorm, elementwise
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import is_only_read_by, maker, only_reader, varying

_EPSILON = 2.0**-20
"""Exact in float32, and so is 1 minus it, so that variance + epsilon is exactly 1."""

_LONGEST = 6
"""Elements of a chain read at once, so that products of integers stay exact in its proof; what is
left of a longer chain and the result are the next chain."""

_ELEMENTS = ("Add", "Sub", "Mul", "Div", "BatchNormalization")

Plan = tuple[ir.Value, Affine]


class SpellAffine(Rule[Plan]):
    """Add(Mul(x, a), c) -> BatchNormalization(x)."""

    name = "spell_affine"
    roots = frozenset(_ELEMENTS)
    minimum_opset = 7

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        x = varying(root)
        if _continues(root):
            raise NoSite  # The whole chain is read from its end.
        nodes, affine = [root], _read(root, x)
        while len(nodes) < _LONGEST and is_only_read_by(x, nodes[0]):
            node = maker(x, *_ELEMENTS, graph=root.graph)
            if node is None:
                break
            try:
                before = varying(node)
                affine = _read(node, before).then(affine)
            except (NoSite, Refused):
                if len(nodes) == 1:
                    raise
                break
            nodes, x = [node, *nodes], before
        if len(nodes) == 1 or not (any(map(_scales, nodes)) and any(map(_shifts, nodes))):
            raise NoSite
        return Site(tuple(nodes), (x, affine))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        x, affine = plan
        assert x.dtype is not None
        dtype, size = x.dtype.numpy(), len(affine.scale)
        return op.BatchNormalization(
            x,
            op.initializer(affine.scale.astype(dtype), "scale"),
            op.initializer(affine.shift.astype(dtype), "shift"),
            op.initializer(np.zeros(size, dtype), "mean"),
            op.initializer(np.full(size, 1 - _EPSILON, dtype), "variance"),
            epsilon=_EPSILON,
        )


def _continues(root: ir.Node) -> bool:
    """Whether the only reader of a chain's end is one more element of it."""
    reader = only_reader(root.outputs[0])
    if reader is None or reader.op_type not in _ELEMENTS or reader.graph is not root.graph:
        return False
    try:
        _read(reader, root.outputs[0])
    except (NoSite, Refused):
        return False
    return True


def _read(node: ir.Node, x: ir.Value) -> Affine:
    """One element of a chain."""
    if x.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        raise Refused(f"the type of '{x.name}' is {x.dtype}")
    if x.shape is None or len(x.shape) != 4 or not isinstance(x.shape[1], int):
        raise Refused(f"'{x.name}' is not known to be (N, C, H, W) with a fixed C")
    if node.op_type == "BatchNormalization":
        return batchnorm(node)
    return elementwise(node, x, len(x.shape), x.shape[1])


def _scales(node: ir.Node) -> bool:
    is_negated = node.op_type == "Sub" and constant(node.inputs[0]) is not None
    return is_negated or node.op_type not in ("Add", "Sub")


def _shifts(node: ir.Node) -> bool:
    return node.op_type not in ("Mul", "Div")


RULE = SpellAffine()


def _model(nodes: str, constants: str, x: str = "float[N, 3, H, W] x") -> str:
    return f"""<ir_version: 8, opset_import: ["" : 15]>
    g ({x}) => (float[N, 3, H, W] z) <{constants}> {{ {nodes} }}"""


EXAMPLES = (
    _model("y = Mul(a, x) z = Add(y, c)", "float[1] a = {2.5}, float[3, 1, 1] c = {1, -2, 3}"),
    _model("y = Div(x, a) z = Sub(c, y)", "float[1, 3, 1, 1] a = {2, 4, -1}, float c = {0.5}"),
    # A normalization as exporters spell it, before an activation and a residual.
    _model(
        "a = Sub(x, m) b = Div(a, d) e = Mul(g, b) f = Add(e, c) h = Relu(f) z = Add(h, x)",
        "float[1, 3, 1, 1] m = {2, 4, -1}, float[3, 1, 1] d = {1.5, 0.5, 3}, "
        "float[3, 1, 1] g = {-1, 2, 0.5}, float c = {0.5}",
    ),
    _model(
        "a = BatchNormalization(x, s, t, m, v) b = Mul(a, c) d = Mul(b, c) e = Add(d, c) "
        "f = Mul(c, e) z = Add(f, c)",
        "float[3] s = {1, 2, -3}, float[3] t = {1, 0, 2}, float[3] m = {0, 3, 1}, "
        "float[3] v = {1, 2, 0.5}, float c = {0.5}",
    ),
    # The chain starts where something else reads it, and ends at a constant along the width.
    _model(
        "u = Mul(x, a) y = Mul(u, a) v = Add(y, c) w = Mul(v, d) z = Add(w, u)",
        "float a = {2.5}, float[3, 1, 1] c = {1, -2, 3}, float[1] d = {3}",
    ),
)

NEAR_MISSES = (
    (_model("y = Add(x, a) z = Sub(y, c)", "float a = {2}, float c = {1}"), ""),
    (_model("y = Mul(x, a) z = Div(y, c)", "float a = {2}, float[3, 1, 1] c = {1, 2, 3}"), ""),
    (_model("y = Mul(x, a) u = Add(y, c) z = Add(u, y)", "float a = {2}, float c = {1}"), ""),
    (
        _model(
            "a = BatchNormalization <training_mode = 1> (x, s, t, m, v) z = Mul(a, c)",
            "float[3] s = {1, 2, -3}, float[3] t = {1, 0, 2}, float[3] m = {0, 3, 1}, "
            "float[3] v = {1, 2, 0.5}, float c = {0.5}",
        ),
        "training",
    ),
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
