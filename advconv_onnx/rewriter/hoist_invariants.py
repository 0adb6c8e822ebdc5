"""Moves what a Loop or Scan computes anew in every iteration, with the same result, before it.

Only where that is never more work: the loop is known to run at least once, or the operator reads
nothing but a shape or calculates with a few numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.iteration import Iteration, iterations, lift_constant
from advconv_onnx.rewriter.repeatable import is_repeatable

_SMALL = 64
"""Elements up to which arithmetic, on shapes and counters, costs nothing but its call."""

_FREE = ("Shape", "Size")
"""Operators that cost nothing whatever they read."""

_CHEAP = (
    *("Add", "Max", "Min", "Mul", "Neg", "Sub"),
    *("And", "Equal", "Greater", "Less", "Not", "Or", "Where"),
    *("Cast", "Concat", "Gather", "Slice", "Squeeze", "Unsqueeze"),
)
"""Operators that cannot fail on sizes that fit; Gather can, on a position that does not."""


class HoistInvariants(ir.passes.InPlacePass):
    """Move nodes of bodies that read only values from outside before the loop, bodies and all."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Move them, in place; each body must be sorted."""
        moved = [node for iteration in iterations(model) for node in _moved_out(iteration, model)]
        return ir.passes.PassResult(model, modified=bool(moved))


def _moved_out(iteration: Iteration, model: ir.Model) -> Iterator[ir.Node]:
    body, graph = iteration.body, iteration.node.graph
    assert graph is not None
    surely_runs = iteration.surely_runs
    for node in list(body):
        if not (surely_runs or _is_harmless(node)):
            continue
        read = set(_read(node))
        if not is_repeatable(node) or any(value.is_graph_output() for value in node.outputs):
            continue
        if any(value.graph is body and not _is_liftable(value) for value in read):
            continue
        for value in read:
            if value.graph is body:
                lift_constant(value, graph, model)
        body.remove(node)
        graph.insert_before(iteration.node, node)
        yield node


def _is_harmless(node: ir.Node) -> bool:
    """Whether a node costs next to nothing and cannot fail, should the loop not run at all."""
    if node.domain or node.op_type in _FREE:
        return not node.domain
    values = [value for value in (*node.inputs, *node.outputs) if value is not None]
    if node.op_type not in _CHEAP or not all(map(_is_small, values)):
        return False
    return node.op_type != "Gather" or _is_inside(node)


def _is_small(value: ir.Value) -> bool:
    sizes = [None] if value.shape is None else list(value.shape)
    known = [size for size in sizes if isinstance(size, int)]
    return len(known) == len(sizes) and math.prod(known) <= _SMALL


def _is_inside(gather: ir.Node) -> bool:
    """Whether a Gather reads constant positions that its data has."""
    data, positions = gather.inputs[0], constant(gather.inputs[1])
    assert data is not None
    assert data.shape is not None
    size = data.shape[gather.attributes.get_int("axis", 0)]
    if positions is None or not isinstance(size, int):
        return False
    return bool(np.all((positions >= -size) & (positions < size)))


def _is_liftable(value: ir.Value) -> bool:
    return value.is_initializer() and not (value.is_graph_input() or value.is_graph_output())


def _read(node: ir.Node) -> Iterator[ir.Value]:
    """What a node and its bodies read from around them."""
    own: set[ir.Value] = set()
    for _, body in files.bodies(node):
        own.update(body.inputs, body.initializers.values())
        for inner in body:
            yield from (value for value in _read(inner) if value not in own)
            own.update(inner.outputs)
    yield from (value for value in node.inputs if value is not None)
