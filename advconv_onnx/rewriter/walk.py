"""Walking from a node to those above it, whatever the order and grouping of operands.

    y = producer(root.inputs[0], "Conv", "ConvTranspose")   or NoSite
    product = factors(root)                                 x * y / 6  as  1/6 and (x, y)

Only nodes of the default domain and of the root's own graph are found: a body may read a value from
outside, but cannot take the node that makes it away.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import onnx_ir as ir

from advconv_onnx.rewriter.constants import constant, rank_of, scalar
from advconv_onnx.rewriter.rule import NoSite


def producer(value: ir.Value | None, *op_types: str, graph: ir.Graph | None = None) -> ir.Node:
    """The node of one of these types that makes a value.

    Args:
        value: the value.
        op_types: the types accepted; none means any.
        graph: the graph the node must be in; None for any.

    Raises:
        NoSite: the value is made otherwise.
    """
    node = maker(value, *op_types, graph=graph)
    if node is None:
        raise NoSite
    return node


def maker(value: ir.Value | None, *op_types: str, graph: ir.Graph | None = None) -> ir.Node | None:
    """As ``producer``, with None for a value that is made otherwise."""
    node = None if value is None else value.producer()
    if node is None or node.domain or (op_types and node.op_type not in op_types):
        return None
    return node if graph is None or node.graph is graph else None


def input_of(node: ir.Node, index: int) -> ir.Value | None:
    """An input, None where it is absent."""
    return node.inputs[index] if index < len(node.inputs) else None


def operands(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """The two inputs of a node in both orders."""
    first, second = node.inputs[0], node.inputs[1]
    assert first is not None
    assert second is not None
    yield first, second
    yield second, first


def is_only_read_by(value: ir.Value, *readers: ir.Node) -> bool:
    """Whether nothing but these nodes reads a value, which is no output of a graph either."""
    return not value.is_graph_output() and all(reader in readers for reader, _ in value.uses())


def only_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value; None if there are others or a graph returns it."""
    readers = {reader for reader, _ in value.uses()}
    return readers.pop() if len(readers) == 1 and not value.is_graph_output() else None


def varying(node: ir.Node) -> ir.Value:
    """The operand that is no constant, of an element-wise operator or a normalization.

    Raises:
        NoSite: none or both are constant.
    """
    operands = node.inputs[: 1 if node.op_type == "BatchNormalization" else 2]
    tensors = [value for value in operands if value is not None and constant(value) is None]
    if len(tensors) != 1:
        raise NoSite
    return tensors[0]


@dataclasses.dataclass(frozen=True)
class Factors:
    """A product read from a tree of Mul and Div.

    Attributes:
        values: the factors that are no scalar constants, in no particular order.
        scale: product of the scalar constants, each of which leaves its operand's shape alone.
        nodes: the tree's nodes, the root last.
    """

    values: tuple[ir.Value, ...]
    scale: float
    nodes: tuple[ir.Node, ...]


def factors(root: ir.Node) -> Factors:
    """Read the product that ends in ``root``, a Mul or Div.

    A Mul or Div above it belongs to the tree if it is in the same graph and nothing else reads it.
    A quotient by anything but a scalar constant ends the tree: it is one factor.

    Raises:
        NoSite: ``root`` is only read by a scaling by a constant, where the product really ends.
    """
    if _is_scaled_further(root):
        raise NoSite
    parts = _factors_of_node(root, root)
    return parts if parts is not None else Factors((root.outputs[0],), 1.0, ())


def _is_scaled_further(root: ir.Node) -> bool:
    y = root.outputs[0]
    reader = only_reader(y)
    if reader is None or reader.domain or reader.graph is not root.graph:
        return False
    if reader.op_type == "Div":
        return reader.inputs[0] is y and bool(scalar(reader.inputs[1], rank_of(y)))
    return reader.op_type == "Mul" and any(
        scalar(other, rank_of(y)) for _, other in operands(reader)
    )


def _factors_of_node(node: ir.Node, reader: ir.Node) -> Factors | None:
    if node.op_type == "Div":
        numerator, denominator = node.inputs[0], node.inputs[1]
        assert numerator is not None
        divisor = scalar(denominator, rank_of(numerator))
        if not divisor:
            return None
        inner = _factors(numerator, node)
        return Factors(inner.values, inner.scale / divisor, (*inner.nodes, node))
    for value, other in operands(node):
        number = scalar(other, rank_of(value))
        if number is not None and constant(value) is None:
            inner = _factors(value, node)
            return Factors(inner.values, inner.scale * number, (*inner.nodes, node))
    first, second = node.inputs[0], node.inputs[1]
    assert first is not None
    assert second is not None
    one, two = _factors(first, node), _factors(second, node)
    return Factors(
        (*one.values, *two.values),
        one.scale * two.scale,
        tuple(dict.fromkeys((*one.nodes, *two.nodes, node))),
    )


def _factors(value: ir.Value, reader: ir.Node) -> Factors:
    node = maker(value, "Mul", "Div", graph=reader.graph)
    if node is not None and is_only_read_by(value, reader):
        parts = _factors_of_node(node, reader)
        if parts is not None:
            return parts
    return Factors((value,), 1.0, ())


def shifted(
    value: ir.Value | None, graph: ir.Graph | None = None
) -> tuple[ir.Value, float, ir.Node]:
    """Read ``x + c`` or ``x - c`` with a scalar constant: (x, c, node).

    Raises:
        NoSite: the value is made otherwise.
    """
    node = producer(value, "Add", "Sub", graph=graph)
    for x, other in operands(node) if node.op_type == "Add" else [tuple(node.inputs[:2])]:
        assert x is not None
        number = scalar(other, rank_of(x))
        if number is not None and constant(x) is None:
            return x, number if node.op_type == "Add" else -number, node
    raise NoSite
