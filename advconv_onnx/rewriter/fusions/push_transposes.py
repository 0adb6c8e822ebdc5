"""Take the Transposes away that surround a region of operators which work in any layout.

    Transpose(f(Transpose(x, p)), q)  =  f'(x)        where p and q are inverse

f is any number of element-wise operators, Concat, Split, Pad, Slice, Resize and Reduce, with any
number of inputs and outputs: the region between Transposes by p and by q. Constants are permuted,
axes are renamed. An input that no Transpose makes gets one, and so does a result that something
else reads: refused where there would not be fewer Transposes than before, or larger ones. Softmax
stays where it is: along another axis than the last one it is slow.
"""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.layout import given_axes, permutation, sizes_of
from advconv_onnx.rewriter.permuting import Order, permute, permuted_inputs
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import maker

_LARGEST = 256
"""Nodes of a region at most."""


@dataclasses.dataclass
class _Region:
    """Nodes between Transposes, while they are collected.

    Attributes:
        order: of the axes behind the region.
        nodes: the nodes, in no order.
        entries: Transposes that the region reads, which ``order`` takes back.
        exits: Transposes by ``order`` that read the region.
        inputs: other values that it reads.
        results: its values that something else reads.
    """

    order: Order
    nodes: dict[ir.Node, tuple[ir.Value, ...]] = dataclasses.field(default_factory=dict)
    entries: dict[ir.Node, None] = dataclasses.field(default_factory=dict)
    exits: dict[ir.Node, None] = dataclasses.field(default_factory=dict)
    inputs: dict[ir.Value, None] = dataclasses.field(default_factory=dict)
    results: dict[ir.Value, None] = dataclasses.field(default_factory=dict)

    @property
    def inverse(self) -> Order:
        """The order that ``order`` takes back."""
        return tuple(self.order.index(axis) for axis in range(len(self.order)))

    def sorted_nodes(self) -> list[ir.Node]:
        """The nodes, each after those it reads."""
        done: dict[ir.Node, None] = {}

        def visit(node: ir.Node) -> None:
            if node in done:
                return
            for value in self.nodes[node]:
                before = value.producer()
                if before in self.nodes:
                    visit(before)
            done[node] = None

        for node in self.nodes:
            visit(node)
        return list(done)


class PushTransposes(Rule[_Region]):
    """Transpose(Relu(Transpose(x))) -> Relu(x)."""

    name = "push_transposes"
    roots = frozenset(("Transpose",))
    affine_in_weights = False
    needs_shapes = True

    def find(self, root: ir.Node, opset: int) -> Site[_Region]:
        region = _grow(root)
        _check_standardization(region)
        _check_cost(region)
        others = [node for node in region.exits if node is not root]
        nodes = (*region.entries, *region.sorted_nodes(), *others, root)
        outputs = (*(node.outputs[0] for node in region.exits), *region.results)
        return Site(nodes, region, outputs)

    def rewrite(self, op: Builder, plan: _Region) -> list[ir.Value]:
        new: dict[ir.Value, ir.Value] = {}
        for entry in plan.entries:
            x = entry.inputs[0]
            assert x is not None
            new[entry.outputs[0]] = x
        for value in plan.inputs:
            new[value] = op.Transpose(value, perm=plan.order)
        for node in plan.sorted_nodes():
            new.update(zip(node.outputs, permute(op, node, new, plan.order), strict=True))
        moved = [new[node.inputs[0]] for node in plan.exits if node.inputs[0] is not None]
        return moved + [op.Transpose(new[y], perm=plan.inverse) for y in plan.results]

    def keeps(self, node: ir.Node) -> bool:
        return node.op_type == "Transpose"


def _check_standardization(region: _Region) -> None:
    """Refuse a mean over the last axis, by which ONNX Runtime knows a layer normalization."""
    last = len(region.order) - 1
    for node in region.nodes:
        if node.op_type == "ReduceMean" and given_axes(node, 1, last + 1) == [last]:
            raise Refused("a standardization over the last axis would no longer be over the last")


def _grow(root: ir.Node) -> _Region:
    """The region that ends in ``root``."""
    start = maker(root.inputs[0], graph=root.graph)
    region = _Region(permutation(root))
    if start is None or permuted_inputs(start, len(region.order)) is None:
        raise NoSite
    pending = [start]
    while pending:
        node = pending.pop()
        if node in region.nodes:
            continue
        if len(region.nodes) == _LARGEST:
            raise Refused(f"the region has more than {_LARGEST} operators")
        read = permuted_inputs(node, len(region.order))
        assert read is not None
        region.nodes[node] = read
        pending += _above(region, node)
        pending += _below(region, node)
    if not region.entries:
        raise NoSite
    return region


def _above(region: _Region, node: ir.Node) -> list[ir.Node]:
    """Collect what a node reads, and return those of it that belong to the region."""
    found = []
    for value in region.nodes[node]:
        before = maker(value, graph=node.graph)
        if before is None:
            region.inputs[value] = None
        elif before.op_type == "Transpose" and permutation(before) == region.inverse:
            region.entries[before] = None
        elif permuted_inputs(before, len(region.order)) is not None:
            found.append(before)
        else:
            region.inputs[value] = None
    return found


def _below(region: _Region, node: ir.Node) -> list[ir.Node]:
    """Collect what reads a node, and return those that belong to the region."""
    found = []
    for value in node.outputs:
        if value.is_graph_output():
            region.results[value] = None
        for reader, _ in value.uses():
            if _is_by(reader, region.order) and reader.graph is node.graph:
                region.exits[reader] = None
            elif reader.graph is node.graph and value in (
                permuted_inputs(reader, len(region.order)) or ()
            ):
                found.append(reader)
            else:
                region.results[value] = None
    return found


def _is_by(node: ir.Node, order: Order) -> bool:
    return node.op_type == "Transpose" and not node.domain and permutation(node) == order


def _check_cost(region: _Region) -> None:
    inside = {*region.nodes, *region.exits}
    gone = [
        entry
        for entry in region.entries
        if not entry.outputs[0].is_graph_output()
        and all(reader in inside for reader, _ in entry.outputs[0].uses())
    ]
    removed, added = len(gone) + len(region.exits), len(region.inputs) + len(region.results)
    if added >= removed:
        raise Refused(f"{added} new Transposes for {removed}")
    if added and not _is_of_one_size(region):
        raise Refused("a new Transpose might be larger than those it replaces")


def _is_of_one_size(region: _Region) -> bool:
    """Whether all tensors that are permuted, or would be, are known to be equally large."""
    values = (
        *(entry.outputs[0] for entry in region.entries),
        *(node.inputs[0] for node in region.exits),
        *region.inputs,
        *region.results,
    )
    return len({sizes_of(value) for value in values}) == 1


RULE = PushTransposes()


def _model(
    nodes: str,
    constants: str = "float c = {2}",
    out: str = "float[] z",
    opset: int = 13,
    more: str = "",
) -> str:
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g (float[N, 4, H, W] x{more}) => ({out}) <{constants}, int64[1] one = {{1}},
    int64[1] three = {{3}}, int64[1] last = {{-1}}, int64[2] hw = {{1, 2}}> {{ {nodes} }}"""


_IN, _OUT = "Transpose <perm = [0, 2, 3, 1]>", "Transpose <perm = [0, 3, 1, 2]>"
_Y = ", float[N, 4, H, W] y"

EXAMPLES = (
    _model(f"a = {_IN} (x) b = Relu(a) z = {_OUT} (b)"),
    _model(f"a = {_IN} (x) b = Relu(a) d = Clip(b, c) z = {_OUT} (d)"),
    _model(f"a = {_IN} (x) b = Add(a, c) z = {_OUT} (b)"),
    _model(f"a = {_IN} (x) b = Mul(c, a) z = {_OUT} (b)", "float[4] c = {1, -2, 3, 4}"),
    _model(f"a = {_IN} (x) b = Div(a, c) z = {_OUT} (b)", "float[1, 1, 4] c = {1, -2, 3, 4}"),
    _model(f"a = {_IN} (x) b = PRelu(a, c) z = {_OUT} (b)", "float[1, 1, 4] c = {1, -2, 3, 4}"),
    _model(f"a = {_IN} (x) b = {_IN} (y) d = Add(a, b) z = {_OUT} (d)", more=_Y),
    _model(f"a = {_IN} (x) b = Sigmoid(a) d = Mul(a, b) z = {_OUT} (d)"),
    _model(f"a = {_IN} (x) b = {_IN} (y) d = Concat <axis = -1> (a, b) z = {_OUT} (d)", more=_Y),
    _model(f"a = {_IN} (x) b, d = Split <axis = 3> (a) e = Add(b, d) z = {_OUT} (e)"),
    _model(f"a = {_IN} (x) b = Pad(a, c) z = {_OUT} (b)", "int64[8] c = {0, 1, 2, 0, 0, 3, 4, 0}"),
    _model(f"a = {_IN} (x) b = Slice(a, one, three, last) z = {_OUT} (b)"),
    _model(f"a = {_IN} (x) b = Slice(a, one, three, one) z = {_OUT} (b)"),
    _model(f"a = {_IN} (x) b = ReduceMean <axes = [1, 2]> (a) d = Mul(a, b) z = {_OUT} (d)"),
    _model(f"a = {_IN} (x) b = ReduceSum(a, hw) z = {_OUT} (b)"),
    _model(
        f'a = {_IN} (x) b = Resize <mode = "nearest"> (a, , c) z = {_OUT} (b)',
        "float[4] c = {1, 2, 3, 1}",
    ),
    _model(f"a = {_IN} (x) b = Pad <pads = [0, 1, 2, 0, 0, 3, 4, 0]> (a) z = {_OUT} (b)", opset=9),
    # Two entries and an exit go, a result gets a Transpose.
    _model(
        f"a = {_IN} (x) b = {_IN} (y) d = Add(a, b) e = Relu(d) z = {_OUT} (e)",
        out="float[] z, float[] e",
        more=_Y,
    ),
    # An entry stays for another reader, but no Transpose is new.
    _model(f"a = {_IN} (x) b = Relu(a) z = {_OUT} (b) v = Softmax(a)", out="float[] z, float[] v"),
)

NEAR_MISSES = (
    (_model(f"a = {_IN} (x) b = Relu(a) z = {_IN} (b)"), ""),
    (_model(f"a = {_IN} (x) b = Softmax(a) z = {_OUT} (b)"), ""),
    (_model(f"b = Relu(x) z = {_OUT} (b)"), ""),
    (
        _model(
            f"a = {_IN} (x) b = Add(a, y) d = Relu(b) z = {_OUT} (d)",
            out="float[] z, float[] b",
            more=", float[N, H, W, 4] y",
        ),
        "2 new Transposes for 2",
    ),
    (
        _model(
            f"a = {_IN} (x) b = Pad(a, c) z = {_OUT} (b)",
            "int64[8] c = {0, 1, 2, 0, 0, 3, 4, 0}",
            out="float[] z, float[] b",
        ),
        "larger",
    ),
    (_model(f"a = {_IN} (x) b = ReduceMean <axes = [1, 2], keepdims = 0> (a) z = Abs(b)"), ""),
    (_model(f"a = {_IN} (x) b = Add(a, y) z = {_OUT} (b)", more=", float[4] y"), ""),
)
