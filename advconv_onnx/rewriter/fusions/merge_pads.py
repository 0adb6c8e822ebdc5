"""Merge a Pad of a Pad with one constant, or of edges.

    Pad(Pad(x, p), q)  =  Pad(x, p + q)

for modes constant (of the same value) and edge, where both pads add; a reflection reflects what the
first one made. Refused for other modes, other values, and where one of them crops.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import constant, rank_of
from advconv_onnx.rewriter.layout import given_ints
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import input_of, producer


@dataclasses.dataclass(frozen=True)
class _Padding:
    """What a Pad does: ``pads`` holds the beginnings of all axes, then the ends."""

    mode: str
    value: float
    pads: tuple[int, ...]


Plan = tuple[ir.Value, _Padding]


class MergePads(Rule[Plan]):
    """Pad(Pad(x)) -> Pad(x)."""

    name = "merge_pads"
    roots = frozenset(("Pad",))
    affine_in_weights = False

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        inner = producer(root.inputs[0], "Pad", graph=root.graph)
        x = inner.inputs[0]
        assert x is not None
        first, second = _padding(inner, x), _padding(root, x)
        if first.mode != second.mode or first.mode not in ("constant", "edge"):
            raise Refused(f"the Pads' modes are {first.mode} and {second.mode}")
        if first.value != second.value:
            raise Refused(f"the Pads' values are {first.value:g} and {second.value:g}")
        if min(*first.pads, *second.pads) < 0:
            raise Refused("one of the Pads crops")
        pads = tuple(int(both) for both in np.add(first.pads, second.pads))
        return Site((inner, root), (x, _Padding(first.mode, first.value, pads)))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        x, padding = plan
        if op.opset < 11:
            attributes = {"mode": padding.mode, "value": padding.value, "pads": padding.pads}
            return op.Pad(x, **attributes)
        inputs = [op.initializer(np.array(padding.pads, np.int64), "pads")]
        if padding.value:
            assert x.dtype is not None
            inputs.append(op.initializer(np.array(padding.value, x.dtype.numpy()), "value"))
        return op.Pad(x, *inputs, mode=padding.mode)


def _padding(node: ir.Node, x: ir.Value) -> _Padding:
    rank = rank_of(x)
    pads = given_ints(node, "pads", 1)
    axes = given_ints(node, "axes", 3)
    given = input_of(node, 2)
    value = node.attributes.get_float("value", 0.0) if given is None else constant(given)
    if pads is None or value is None or x.dtype is None:
        raise NoSite
    if axes is not None:
        if rank is None:
            raise Refused("the rank is unknown")
        whole = np.zeros((2, rank), np.int64)
        whole[:, [axis % rank for axis in axes]] = np.reshape(pads, (2, -1))
        pads = whole.reshape(-1).tolist()
    mode = str(node.attributes.get_string("mode", "constant"))
    return _Padding(mode, float(np.reshape(value, ())), tuple(pads))


RULE = MergePads()


def _model(nodes: str, constants: str = "float u = {0}", opset: int = 18, x: str = "float") -> str:
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g ({x}[N, 2, W] x) => ({x}[] z) <{constants}> {{ {nodes} }}"""


_PADS = "int64[6] p = {0, 0, 1, 0, 1, 2}, int64[6] q = {0, 1, 2, 0, 0, 3}"
_PADS_11 = "pads = [0, 0, 1, 0, 1, 2]"

EXAMPLES = (
    _model("y = Pad(x, p) z = Pad(y, q)", _PADS),
    _model("y = Pad(x, p, v) z = Pad(y, q, v)", f"{_PADS}, float v = {{2.5}}"),
    _model("y = Pad(x, p, v) z = Pad(y, q)", f"{_PADS}, float v = {{0}}"),
    _model("y = Pad(x, p, v) z = Pad(y, q, v)", f"{_PADS}, int64 v = {{2}}", x="int64"),
    _model('y = Pad <mode = "edge"> (x, p) z = Pad <mode = "edge"> (y, q)', _PADS),
    _model(
        "y = Pad(x, p) z = Pad(y, q, , a)",
        "int64[6] p = {0, 0, 1, 0, 1, 2}, int64[2] q = {1, 2}, int64[1] a = {-2}",
    ),
    _model(f"y = Pad <{_PADS_11}, value = 1.5> (x) z = Pad <{_PADS_11}, value = 1.5> (y)", opset=9),
)

NEAR_MISSES = (
    (_model('y = Pad <mode = "edge"> (x, p) z = Pad(y, q)', _PADS), "modes"),
    (_model('y = Pad <mode = "reflect"> (x, p) z = Pad <mode = "reflect"> (y, p)', _PADS), "modes"),
    (_model("y = Pad(x, p, v) z = Pad(y, q)", f"{_PADS}, float v = {{2.5}}"), "values"),
    (
        _model(
            "y = Pad(x, p) z = Pad(y, q)",
            "int64[6] p = {0, 0, -1, 0, 0, 0}, int64[6] q = {0, 0, 1, 0, 0, 0}",
        ),
        "crops",
    ),
    (
        _model("y = Pad(x, p) z = Pad(y, q) v = Abs(y)", _PADS).replace("[] z", "[] z, float[] v"),
        "also read",
    ),
    (_model("r = Abs(p) y = Pad(x, r) z = Pad(y, q)", _PADS), ""),
)
