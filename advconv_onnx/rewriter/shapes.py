"""What is known of the numbers in a shape expression: Gather(Shape(x), 1) and the like.

A number is an ``int`` where known, the name of a size where it is one (equal names are equal
sizes, never below zero), and None where nothing is known.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.layout import Size, cast_type, given_ints, sizes_of
from advconv_onnx.rewriter.rule import NoSite
from advconv_onnx.rewriter.walk import maker

Number = Size | bool | None

_MOST = 64
"""Numbers of an expression beyond which it is data, not a shape."""

_DEEPEST = 64
"""Nodes one after another beyond which it is no shape either."""

_INTEGERS = (ir.DataType.INT32, ir.DataType.INT64)
_TYPES = (*_INTEGERS, ir.DataType.BOOL)


@dataclasses.dataclass(frozen=True)
class Numbers:
    """The numbers of a tensor of rank 0 or 1, as far as they are known.

    Attributes:
        items: the numbers.
        rank: 0 or 1.
        nodes: the nodes that compute them from shapes, in their order.
    """

    items: tuple[Number, ...]
    rank: int
    nodes: tuple[ir.Node, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether they are all known."""
        return all(isinstance(item, int) for item in self.items)


def numbers_of(value: ir.Value | None, graph: ir.Graph | None) -> Numbers:
    """Read a shape expression.

    Args:
        value: where it ends.
        graph: nodes of other graphs are not looked into.

    Raises:
        NoSite: it is no such expression.
    """
    return _Reading(graph).read(value)


class _Reading:
    """One reading of an expression, whose parts may be used many times."""

    def __init__(self, graph: ir.Graph | None) -> None:
        self._graph = graph
        self._read: dict[ir.Value, Numbers] = {}
        self._depth = 0

    def read(self, value: ir.Value | None) -> Numbers:
        """The numbers of a value."""
        array = constant(value)
        if array is not None:
            if array.ndim > 1 or array.size > _MOST or array.dtype.kind not in "ib":
                raise NoSite
            return Numbers(tuple(array.reshape(-1).tolist()), array.ndim)
        if value is None or value.dtype not in _TYPES or self._depth > _DEEPEST:
            raise NoSite
        if value not in self._read:
            node = maker(value, *_READERS, graph=self._graph)
            if node is None:
                raise NoSite
            self._depth += 1
            found = _READERS[node.op_type](node, self)
            self._depth -= 1
            if len(found.items) > _MOST:
                raise NoSite
            nodes = (*dict.fromkeys(found.nodes), node)
            self._read[value] = dataclasses.replace(found, nodes=nodes)
        return self._read[value]

    def inputs(self, node: ir.Node) -> list[Numbers]:
        """The numbers of all inputs of a node."""
        return [self.read(value) for value in node.inputs]


_Reader = Callable[[ir.Node, _Reading], Numbers]


def _shape(node: ir.Node, reading: _Reading) -> Numbers:
    sizes = sizes_of(node.inputs[0])
    end = node.attributes.get_int("end", len(sizes))
    return Numbers(sizes[node.attributes.get_int("start", 0) : end], 1)


def _gather(node: ir.Node, reading: _Reading) -> Numbers:
    data, indices = reading.read(node.inputs[0]), constant(node.inputs[1])
    if data.rank != 1 or indices is None or indices.ndim > 1:
        raise NoSite
    try:
        items = [data.items[int(index)] for index in indices.reshape(-1)]
    except IndexError as error:
        raise NoSite from error
    return Numbers(tuple(items), indices.ndim, data.nodes)


def _slice(node: ir.Node, reading: _Reading) -> Numbers:
    data = reading.read(node.inputs[0])
    starts, ends = given_ints(node, "starts", 1), given_ints(node, "ends", 2)
    steps = given_ints(node, "steps", 4) or [1]
    if data.rank != 1 or not starts or not ends or len(starts) != 1 or steps[0] < 1:
        raise NoSite
    items = data.items[slice(starts[0], ends[0], steps[0])]
    return Numbers(items, 1, data.nodes)


def _concat(node: ir.Node, reading: _Reading) -> Numbers:
    parts = reading.inputs(node)
    items = tuple(item for part in parts for item in part.items)
    return Numbers(items, 1, tuple(node for part in parts for node in part.nodes))


def _squeeze(node: ir.Node, reading: _Reading) -> Numbers:
    data = reading.read(node.inputs[0])
    if len(data.items) != 1:
        raise NoSite
    return dataclasses.replace(data, rank=0)


def _unsqueeze(node: ir.Node, reading: _Reading) -> Numbers:
    data = reading.read(node.inputs[0])
    if data.rank or given_ints(node, "axes", 1) not in ([0], [-1]):
        raise NoSite
    return dataclasses.replace(data, rank=1)


def _reshape(node: ir.Node, reading: _Reading) -> Numbers:
    data, target = reading.read(node.inputs[0]), given_ints(node, "shape", 1)
    if target is None or len(target) > 1:
        raise NoSite
    return dataclasses.replace(data, rank=len(target))


def _cast(node: ir.Node, reading: _Reading) -> Numbers:
    if cast_type(node) not in _INTEGERS:
        raise NoSite
    data = reading.read(node.inputs[0])
    return dataclasses.replace(
        data, items=tuple(int(item) if isinstance(item, bool) else item for item in data.items)
    )


def _add(one: Number, other: Number) -> Number:
    return _computed(operator.add, one, other, 0)


def _subtract(one: Number, other: Number) -> Number:
    return one if other == 0 else _computed(operator.sub, one, other, None)


def _multiply(one: Number, other: Number) -> Number:
    return _computed(operator.mul, one, other, 1)


def _divide(one: Number, other: Number) -> Number:
    if other == 1:
        return one
    # The quotient of numbers below zero is rounded towards zero, as in no other language of ours.
    is_usual = isinstance(one, int) and isinstance(other, int) and one >= 0 and other > 0
    return _computed(operator.floordiv, one, other, None) if is_usual else None


def _equal(one: Number, other: Number) -> Number:
    if one is None or other is None:
        return None
    if isinstance(one, int) and isinstance(other, int):
        return one == other
    numbers = [number for number in (one, other) if isinstance(number, int)]
    if numbers:
        return False if numbers[0] < 0 else None  # A size is never below zero.
    return True if one == other else None


def _computed(
    compute: Callable[[int, int], int], one: Number, other: Number, neutral: int | None
) -> Number:
    if isinstance(one, int) and isinstance(other, int):
        return compute(one, other)
    if neutral is not None and neutral in (one, other):
        return other if one == neutral else one
    return None


def _element_wise(compute: Callable[[Number, Number], Number]) -> _Reader:
    def read(node: ir.Node, reading: _Reading) -> Numbers:
        one, other = reading.inputs(node)
        items = tuple(compute(*pair) for pair in _broadcast(one, other))
        return Numbers(items, max(one.rank, other.rank), (*one.nodes, *other.nodes))

    return read


def _where(node: ir.Node, reading: _Reading) -> Numbers:
    condition, yes, no = reading.inputs(node)
    items = tuple(
        _chosen(is_so, one, other) for is_so, one, other in _broadcast(condition, yes, no)
    )
    rank = max(condition.rank, yes.rank, no.rank)
    return Numbers(items, rank, (*condition.nodes, *yes.nodes, *no.nodes))


def _chosen(is_so: Number, one: Number, other: Number) -> Number:
    if is_so is None:
        return one if one == other else None
    return one if is_so else other


def _broadcast(*parts: Numbers) -> Iterator[tuple[Number, ...]]:
    count = max(len(part.items) for part in parts)
    if any(len(part.items) not in (1, count) for part in parts):
        raise NoSite
    repeated = (part.items * count if len(part.items) == 1 else part.items for part in parts)
    return zip(*repeated, strict=True)


def _constant_of_shape(node: ir.Node, reading: _Reading) -> Numbers:
    shape = reading.read(node.inputs[0])
    attribute = node.attributes.get("value")
    value = np.zeros(1) if attribute is None else attribute.as_tensor().numpy()
    count = shape.items[0] if len(shape.items) == 1 else None
    if value.dtype.kind != "i" or not isinstance(count, int) or count > _MOST:
        raise NoSite
    return Numbers((int(value[0]),) * count, 1, shape.nodes)


def _size(node: ir.Node, reading: _Reading) -> Numbers:
    sizes = sizes_of(node.inputs[0])
    total: Number = 1
    for size in sizes:
        total = _multiply(total, size if isinstance(size, int) else None)
    return Numbers((total,), 0)


_READERS: dict[str, _Reader] = {
    "Shape": _shape,
    "Size": _size,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "Cast": _cast,
    "Add": _element_wise(_add),
    "Sub": _element_wise(_subtract),
    "Mul": _element_wise(_multiply),
    "Div": _element_wise(_divide),
    "Equal": _element_wise(_equal),
    "Where": _where,
    "ConstantOfShape": _constant_of_shape,
}

EXPRESSIONS = frozenset(_READERS)
"""Operator types a shape expression can end in."""
