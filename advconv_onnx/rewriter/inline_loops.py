"""Puts the body of a Loop that runs exactly once in its place; a Loop that never runs goes.

Exporters loop over the batch, and a shape that fixes it at 1 leaves the loop.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx.rewriter.iteration import Iteration, iterations, lift_constant, make_instead

_AXES_AS_INPUT = 13
"""The first opset in which Unsqueeze takes its axes as an input."""


class InlineLoops(ir.passes.InPlacePass):
    """Replace every Loop whose number of iterations is known to be 0 or 1."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace them, in place."""
        modified = False
        for iteration in iterations(model):
            trips = _trips(iteration)
            if trips == 1:
                _inline(iteration, model)
            elif trips == 0 and not any(map(_is_read, _collected(iteration))):
                _skip(iteration)
            else:
                continue
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _trips(iteration: Iteration) -> int | None:
    """How often a Loop runs, if that is known and at most 1."""
    node = iteration.node
    if node.op_type != "Loop":
        return None
    count, condition = (_number(value) for value in node.inputs[:2])
    goes_on = _number(iteration.body.outputs[0])
    if (count is not None and count <= 0) or condition == 0:
        return 0
    return 1 if iteration.surely_runs and (count == 1 or goes_on == 0) else None


def _number(value: ir.Value | None) -> int | None:
    """A constant of one element; bodies make those they return with a Constant node."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return int(tensor.numpy().reshape(())) if tensor is not None and tensor.size == 1 else None


def _collected(iteration: Iteration) -> tuple[ir.Value, ...]:
    return tuple(iteration.node.outputs[iteration.states :])


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _skip(iteration: Iteration) -> None:
    """Hand the states on as they are."""
    node = iteration.node
    for final, outer in zip(node.outputs, node.inputs[iteration.first_input :], strict=False):
        assert outer is not None
        make_instead(final, "Identity", [outer], {})
    _remove(node)


def _inline(iteration: Iteration, model: ir.Model) -> None:
    """Move the body's nodes before the Loop, and take what they return as its outputs.

    They keep their names, and get the Loop's metadata.
    """
    node, body, graph = iteration.node, iteration.body, iteration.node.graph
    assert graph is not None
    counter = _constant(np.zeros(_as_declared(body.inputs[0]), np.int64))
    condition = _constant(np.ones(_as_declared(body.inputs[1]), np.bool_))
    given = [counter, condition, *node.inputs[iteration.first_input :]]
    outside = dict(zip(body.inputs, given, strict=True))
    results = [outside.get(value) or value for value in body.outputs[iteration.first_result :]]
    body.outputs.clear()
    for inner, outer in outside.items():
        assert outer is not None
        ir.convenience.replace_all_uses_with(inner, outer)
    for value in (counter, condition, *body.initializers.values()):
        lift_constant(value, graph, model)
    nodes = list(body)
    body.remove(nodes)
    graph.insert_before(node, nodes)
    for inner_node in nodes:
        inner_node.metadata_props.update(node.metadata_props | inner_node.metadata_props)
    for final, result in zip(node.outputs, results, strict=True):
        if final in _collected(iteration):
            _collect_one(final, result, model)
        else:
            make_instead(final, "Identity", [result], {})
    _remove(node)


def _as_declared(value: ir.Value) -> tuple[int, ...]:
    """The shape of a scalar that some bodies take as a tensor of one element."""
    return (1,) if value.shape is not None and len(value.shape) else ()


def _constant(array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array)
    shape = ir.Shape(array.shape)
    return ir.Value(shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)


def _collect_one(final: ir.Value, result: ir.Value, model: ir.Model) -> None:
    """Collect the result of the only iteration along a new first axis."""
    node = final.producer()
    assert node is not None
    assert node.graph is not None
    if files.opset(model) < _AXES_AS_INPUT:
        make_instead(final, "Unsqueeze", [result], {"axes": [0]})
        return
    axes = _constant(np.zeros(1, np.int64))
    lift_constant(axes, node.graph, model)
    make_instead(final, "Unsqueeze", [result, axes], {})


def _remove(node: ir.Node) -> None:
    assert node.graph is not None
    node.graph.remove(node, safe=True)
