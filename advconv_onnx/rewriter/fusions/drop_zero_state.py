"""Drop initial states of zeros from GRU, LSTM and RNN: they are what an absent one means.

    GRU(x, w, r, b, lengths, 0)  =  GRU(x, w, r, b, lengths)

for zeros that are constant, or a ConstantOfShape through Slice, Squeeze, Unsqueeze, Reshape,
Transpose, Expand and Concat, of dynamic shapes too. What makes the zeros stays for other readers.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.rule import NoSite, Rule, Site
from advconv_onnx.rewriter.shapes import numbers_of
from advconv_onnx.rewriter.walk import maker

Plan = tuple[ir.Node, tuple[int, ...]]

_MOVING = ("Slice", "Squeeze", "Unsqueeze", "Reshape", "Transpose", "Expand", "Concat")
_STATES = (5, 6)
"""Inputs: initial_h, and initial_c of an LSTM."""


class DropZeroState(Rule[Plan]):
    """GRU(x, zeros) -> GRU(x)."""

    name = "drop_zero_state"
    roots = frozenset(("GRU", "LSTM", "RNN"))
    affine_in_weights = False
    needs_shapes = True
    minimum_opset = 7

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        makers = {
            index: _makers_of_zeros(value, root.graph)
            for index, value in enumerate(root.inputs)
            if index in _STATES and value is not None
        }
        dropped = tuple(index for index, nodes in makers.items() if nodes is not None)
        if not dropped:
            raise NoSite
        nodes = dict.fromkeys(node for index in dropped for node in makers[index] or ())
        return Site((*nodes, root), (root, dropped), _wanted(root))

    def rewrite(self, op: Builder, plan: Plan) -> list[ir.Value]:
        node, dropped = plan
        inputs = [None if index in dropped else value for index, value in enumerate(node.inputs)]
        new = op.node(node.op_type, inputs, dict(node.attributes), len(node.outputs))
        wanted = _wanted(node)
        return [y for y, old in zip(new.outputs, node.outputs, strict=True) if old in wanted]

    def keeps(self, node: ir.Node) -> bool:
        return True


def _wanted(node: ir.Node) -> tuple[ir.Value, ...]:
    return tuple(y for y in node.outputs if y.uses() or y.is_graph_output())


def _makers_of_zeros(value: ir.Value | None, graph: ir.Graph | None) -> list[ir.Node] | None:
    """The nodes that make a tensor of nothing but zeros, None where it is another one."""
    array = constant(value)
    if array is not None:
        return None if array.any() else []
    node = maker(value, "ConstantOfShape", *_MOVING, graph=graph)
    if node is None:
        return None
    if node.op_type == "ConstantOfShape":
        attribute = node.attributes.get("value")
        if attribute is not None and attribute.as_tensor().numpy().any():
            return None
        return _computing(node.inputs, graph, node)
    data = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    found: list[ir.Node] = []
    for part in data:
        makers = _makers_of_zeros(part, graph)
        if makers is None:
            return None
        found += makers
    numbers = _computing(node.inputs[len(data) :], graph, node)
    return None if numbers is None else [*found, *numbers]


def _computing(
    values: Iterable[ir.Value | None], graph: ir.Graph | None, node: ir.Node
) -> list[ir.Node] | None:
    """The nodes of shape expressions that a node reads, and the node itself."""
    found: list[ir.Node] = []
    for value in values:
        try:
            found += () if value is None else numbers_of(value, graph).nodes
        except NoSite:
            return None
    return [*found, node]


RULE = DropZeroState()


def _weight(name: str, rows: int, columns: int) -> str:
    numbers = ", ".join(str((3 * k % 7 - 3) / 4) for k in range(rows * columns))
    return f"float[1, {rows}, {columns}] {name} = {{{numbers}}}"


def _model(
    nodes: str, constants: str = "float u = {0}", out: str = "float[] z", gates: int = 3
) -> str:
    return f"""<ir_version: 8, opset_import: ["" : 14]> g (float[T, N, 3] x) => ({out})
    <{_weight("w", 2 * gates, 3)}, {_weight("r", 2 * gates, 2)}, int64[1] zero = {{0}},
     int64[1] one = {{1}}, int64[1] two = {{2}}, {constants}> {{ {nodes} }}"""


_ZEROS = "s = Shape(x) n = Slice(s, one, two) t = Concat <axis = 0> (one, n, two)"
_GRU = "GRU <hidden_size = 2, linear_before_reset = 1> (x, w, r, , , h)"

EXAMPLES = (
    _model(f"{_ZEROS} h = ConstantOfShape(t) z, y = {_GRU}"),
    _model(f"{_ZEROS} h = ConstantOfShape(t) z, y = {_GRU}", out="float[] z, float[] y"),
    _model(
        "s = Shape(x) n = Slice(s, one, two) t = Concat <axis = 0> (two, n, two)"
        f" g = ConstantOfShape(t) h = Slice(g, zero, one, zero) z, y = {_GRU} v = Abs(g)",
        out="float[] z, float[] v",
    ),
    _model(
        f"{_ZEROS} h = ConstantOfShape(t) z, y, c = LSTM <hidden_size = 2> (x, w, r, , , h, h)",
        gates=4,
    ),
    _model(f"z, y = {_GRU}", "float[1, 1, 2] h = {0, 0}").replace("[T, N, 3]", "[T, 1, 3]"),
)

NEAR_MISSES = (
    (_model(f"z, y = {_GRU}", "float[1, 1, 2] h = {0, 1}").replace("[T, N, 3]", "[T, 1, 3]"), ""),
    (_model(f"{_ZEROS} h = ConstantOfShape <value = float[1] {{2}}> (t) z, y = {_GRU}"), ""),
    (_model(f"{_ZEROS} g = ConstantOfShape(t) h = Exp(g) z, y = {_GRU}"), ""),
    (_model("z, y = GRU <hidden_size = 2> (x, w, r)"), ""),
)
