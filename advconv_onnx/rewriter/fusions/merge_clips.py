"""Merge a Clip or Relu with the Clip or Relu before it.

    Clip(Clip(x, a, b), c, d)  =  Clip(x, max(c, min(a, d)), max(c, min(b, d)))   a <= b, c <= d

with Relu read as a Clip from 0. A convolution takes one of them into its kernel. Refused where
bounds are computed or the lower one lies above the upper one.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import scalar
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import input_of, producer


@dataclasses.dataclass(frozen=True)
class _Bounds:
    """The interval that values are moved into."""

    low: float = -math.inf
    high: float = math.inf

    def then(self, other: _Bounds) -> _Bounds:
        """The interval of both, one after another."""
        return _Bounds(
            max(other.low, min(self.low, other.high)), max(other.low, min(self.high, other.high))
        )


Plan = tuple[ir.Value, _Bounds]


class MergeClips(Rule[Plan]):
    """Clip(Relu(x)) -> Clip(x)."""

    name = "merge_clips"
    roots = frozenset(("Clip", "Relu"))
    affine_in_weights = False
    minimum_opset = 6

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        inner = producer(root.inputs[0], "Clip", "Relu", graph=root.graph)
        x = inner.inputs[0]
        if x is None or x.dtype is None or (inner.op_type, root.op_type) == ("Relu", "Relu"):
            raise NoSite
        return Site((inner, root), (x, _bounds(inner).then(_bounds(root))))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        x, bounds = plan
        if bounds == _Bounds(0):
            return op.Relu(x)
        low, high = (None if math.isinf(b) else float(b) for b in (bounds.low, bounds.high))
        if op.opset < 11:
            given = {name: b for name, b in (("min", low), ("max", high)) if b is not None}
            return op.Clip(x, **given)
        assert x.dtype is not None
        dtype = x.dtype.numpy()
        return op.Clip(
            x,
            None if low is None else op.initializer(np.array(low, dtype), "min"),
            None if high is None else op.initializer(np.array(high, dtype), "max"),
        )


def _bounds(node: ir.Node) -> _Bounds:
    if node.op_type == "Relu":
        return _Bounds(0)
    bounds = _Bounds(_bound(node, 1, "min", -math.inf), _bound(node, 2, "max", math.inf))
    if bounds.low > bounds.high:
        raise Refused(f"a Clip's bounds {bounds.low:g} and {bounds.high:g} are swapped")
    return bounds


def _bound(node: ir.Node, index: int, name: str, default: float) -> float:
    value = input_of(node, index)
    if value is None:
        return float(node.attributes.get_float(name, default))
    number = scalar(value, 0)
    if number is None:
        raise Refused("a Clip's bounds are computed")
    return number


RULE = MergeClips()


def _model(nodes: str, opset: int = 13, x: str = "float", out: str = "float[] z") -> str:
    return f"""<ir_version: 8, opset_import: ["" : {opset}]> g ({x}[N, C, H, W] x) => ({out})
    <{x} one = {{1}}, {x} six = {{6}}, {x} two = {{2}}, {x} zero = {{0}}> {{ {nodes} }}"""


EXAMPLES = (
    _model("y = Relu(x) z = Clip(y, zero, six)"),
    _model("y = Clip(x, zero, six) z = Relu(y)"),
    _model("y = Clip(x, one, six) z = Clip(y, zero, two)"),
    _model("y = Clip(x, zero, one) z = Clip(y, two, six)"),
    _model("y = Clip(x, , six) z = Relu(y)"),
    _model("y = Relu(x) z = Clip(y, zero)"),
    _model("y = Clip(x, zero, two) z = Clip(y, one)", x="int64", out="int64[] z"),
    _model("y = Relu(x) z = Clip <min = -1.0, max = 6.0> (y)", opset=9),
    _model("y = Clip <min = 0.5> (x) z = Relu(y)", opset=9),
)

NEAR_MISSES = (
    (_model("y = Clip(x, six, one) z = Relu(y)"), "swapped"),
    (_model("b = Abs(six) y = Clip(x, zero, b) z = Relu(y)"), "computed"),
    (_model("y = Relu(x) z = Clip(y, one) v = Neg(y)", out="float[] z, float[] v"), "also read"),
    (_model("y = Relu(x) z = Relu(y)"), ""),
    (_model("y = LeakyRelu(x) z = Clip(y, one)"), ""),
)
