"""Fold a constant Pad into the pads of the pool that reads it.

    AveragePool(Pad(x, p; 0))   =  AveragePool(x, pads=p; count_include_pad=1)
    MaxPool(Pad(x, p; -inf))    =  MaxPool(x, pads=p)
    MaxPool(Pad(r(x), p; 0))    =  MaxPool(r(x), pads=p)          for r(x) >= 0: Relu, Sigmoid, Clip

because a MaxPool leaves its own padding out, and every window holds a pixel of the image: pads are
smaller than the kernel, which has no dilations. Refused otherwise, for other modes and values,
negative pads, ``auto_pad`` SAME, ``ceil_mode`` (it drops windows that begin in padding), indices,
and an AveragePool that has padding of its own and does not count it.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.padding import Padding
from advconv_onnx.rewriter.rule import Refused, Rule, Site
from advconv_onnx.rewriter.walk import input_of, maker, producer

Plan = tuple[ir.Value, ir.Node | None, ir.Node, list[int]]


class FoldPadIntoPool(Rule[Plan]):
    """MaxPool(Pad(x)) -> MaxPool(x)."""

    name = "fold_pad_into_pool"
    roots = frozenset(("AveragePool", "MaxPool"))
    affine_in_weights = False
    minimum_opset = 7  # before, an AveragePool cannot count its padding

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        pad = producer(root.inputs[0], "Pad", graph=root.graph)
        x = pad.inputs[0]
        assert x is not None
        kernel = root.attributes.get_ints("kernel_shape", ())
        padding = Padding.of(pad, len(kernel) + 2)
        if (padding.amounts < 0).any():
            raise Refused("the Pad crops")
        pads = _merged_pads(root, padding, len(kernel))
        if not _needs_positive(root, padding.value):
            return Site((pad, root), (x, None, root, pads))
        above = _positive(x, root.graph)
        assert above.inputs[0] is not None
        return Site((above, pad, root), (above.inputs[0], above, root, pads))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        x, above, pool, pads = plan
        if above is not None:
            inputs = (x, *above.inputs[1:])
            x = op.node(above.op_type, inputs, dict(above.attributes)).outputs[0]
        changed: dict[str, object] = {"pads": pads, "auto_pad": "NOTSET"}
        if pool.op_type == "AveragePool":
            changed["count_include_pad"] = 1
        return op.node(pool.op_type, [x], {**pool.attributes, **changed}).outputs[0]


def _merged_pads(pool: ir.Node, padding: Padding, spatial: int) -> list[int]:
    attributes = pool.attributes
    if str(attributes.get_string("auto_pad", "NOTSET")).startswith("SAME"):
        raise Refused("the pool's auto_pad depends on the padded size")
    if attributes.get_int("ceil_mode", 0) or len(pool.outputs) > 1:
        raise Refused("the pool has ceil_mode or indices")
    if any(dilation != 1 for dilation in attributes.get_ints("dilations", ())):
        raise Refused("the pool has dilations")
    own = np.array(attributes.get_ints("pads", [0] * 2 * spatial)).reshape(2, -1)
    if (
        pool.op_type == "AveragePool"
        and own.any()
        and not attributes.get_int("count_include_pad", 0)
    ):
        raise Refused("the pool does not count its own padding")
    pads = own + padding.spatial
    if (pads >= np.array(attributes.get_ints("kernel_shape"))).any():
        raise Refused(f"pads {pads.ravel().tolist()} would leave windows without a pixel")
    return list(pads.ravel().tolist())


def _needs_positive(pool: ir.Node, value: float) -> bool:
    """Whether the pads are only neutral for an input without negative numbers."""
    if value != (0 if pool.op_type == "AveragePool" else -math.inf) and value != 0:
        raise Refused(f"the Pad's value is {value:g}")
    return pool.op_type == "MaxPool" and value == 0


def _positive(x: ir.Value, graph: ir.Graph | None) -> ir.Node:
    """The operator that makes ``x``, which is never negative."""
    node = maker(x, "Relu", "Sigmoid", "Clip", graph=graph)
    if node is None:
        raise Refused(f"'{x.name}' may be negative, where zeros are larger")
    if node.op_type == "Clip":
        low = constant(input_of(node, 1))
        lowest = node.attributes.get_float("min", -1.0) if low is None else float(low.reshape(()))
        if not lowest >= 0:
            raise Refused(f"'{x.name}' may be negative, where zeros are larger")
    return node


RULE = FoldPadIntoPool()


def _model(nodes: str, constants: str = "float u = {0}", opset: int = 18, more: str = "") -> str:
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g (float[N, 3, H, W] x) => (float[N, 3, P, Q] z{more})
    <int64[8] p = {{0, 0, 1, 0, 0, 0, 1, 2}}, {constants}> {{ {nodes} }}"""


_MAX = "MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (y)"

EXAMPLES = (
    _model("y = Pad(x, p) z = AveragePool <kernel_shape = [2, 3], strides = [1, 2]> (y)"),
    _model(
        "y = Pad <pads = [0, 0, 1, 0, 0, 0, 0, 1]> (x) "
        "z = AveragePool <kernel_shape = [3, 3], pads = [0, 1, 1, 1], count_include_pad = 1> (y)",
        opset=9,
    ),
    _model(f"y = Pad(x, p, v) z = {_MAX}", "float v = {-inf}"),
    _model(f"r = Relu(x) y = Pad(r, p) z = {_MAX}"),
    _model(f"r = Clip(x, lo, hi) y = Pad(r, p) z = {_MAX}", "float lo = {0}, float hi = {6}"),
    _model(f"r = Sigmoid(x) y = Pad(r, p, v) z = {_MAX}", "float v = {0}"),
)

NEAR_MISSES = (
    (_model(f"y = Pad(x, p) z = {_MAX}"), "may be negative"),
    (
        _model(f"r = Clip(x, lo) y = Pad(r, p) z = {_MAX}", "float lo = {-1}"),
        "may be negative",
    ),
    (_model(f"y = Pad(x, p, v) z = {_MAX}", "float v = {-3}"), "value is -3"),
    (_model("y = Pad(x, p) z = AveragePool <kernel_shape = [2, 2]> (y)"), "without a pixel"),
    (
        _model("y = Pad(x, p) z = AveragePool <kernel_shape = [3, 3], pads = [1, 0, 0, 0]> (y)"),
        "does not count",
    ),
    (
        _model("y = Pad(x, p) z = AveragePool <kernel_shape = [3, 3], ceil_mode = 1> (y)"),
        "ceil_mode",
    ),
    (
        _model(
            "r = Relu(x) y = Pad(r, p) z, i = MaxPool <kernel_shape = [3, 3]> (y)",
            more=", int64[] i",
        ),
        "indices",
    ),
    (
        _model(
            'y = Pad(x, p) z = AveragePool <kernel_shape = [3, 3], auto_pad = "SAME_UPPER"> (y)'
        ),
        "auto_pad",
    ),
    (
        _model(
            "r = Relu(x) y = Pad(r, p) z = MaxPool <kernel_shape = [3, 3], dilations=[1, 2]> (y)"
        ),
        "dilations",
    ),
    (
        _model(f"r = Relu(x) y = Pad(r, p) a = {_MAX} b = GlobalMaxPool(r) z = Add(a, b)"),
        "also read by",
    ),
    (
        _model(f'r = Relu(x) y = Pad <mode = "reflect"> (r, p) z = {_MAX}'),
        "reflect",
    ),
)
