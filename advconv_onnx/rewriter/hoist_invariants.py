"""Moves what a Loop or Scan computes anew in every iteration, with the same result, before it.

Only where that is never more work: the loop is known to run at least once, or the operator reads
nothing but a shape.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx.rewriter.iteration import Iteration, iterations, lift_constant
from advconv_onnx.rewriter.repeatable import is_repeatable

_FREE = ("Shape", "Size")
"""Operators that cost nothing and cannot fail, should the loop not run at all."""


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
        if not surely_runs and (node.op_type not in _FREE or node.domain):
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
