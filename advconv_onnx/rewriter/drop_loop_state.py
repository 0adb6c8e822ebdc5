"""Takes what a Loop or Scan carries around for nothing out of it.

A state that the body hands on as it got it is the value the loop was given: the body reads that
one from outside, where it may be a constant and what depends on it need not be computed again and
again. ONNX Runtime copies every state in every iteration, weights too: exporters of PaddlePaddle
carry all weights of a recurrent cell. Of two states that are always equal one is enough. A state or
a collected output that nothing reads goes.
"""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx.rewriter.iteration import (
    Iteration,
    describe,
    iteration_of,
    iterations,
    make_instead,
)


class DropLoopState(ir.passes.InPlacePass):
    """Drop states that never change or equal another, and what nothing reads."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Drop them, in place."""
        modified = False
        opset = files.opset(model)
        for found in iterations(model):
            iteration: Iteration | None = found
            while iteration is not None:
                smaller = _drop_one(iteration)
                modified = modified or smaller is not None
                iteration = None if smaller is None else iteration_of(smaller, opset)
        return ir.passes.PassResult(model, modified=modified)


def _drop_one(iteration: Iteration) -> ir.Node | None:
    """Drop one state or output; the node that replaces the old one, None where nothing is idle."""
    node, body = iteration.node, iteration.body
    for index, final in enumerate(node.outputs):
        result = body.outputs[iteration.first_result + index]
        is_read = bool(final.uses()) or final.is_graph_output()
        if index >= iteration.states:
            if not is_read and len(node.outputs) > 1:
                return _without(iteration, index)
            continue
        outer = node.inputs[iteration.first_input + index]
        inner = body.inputs[iteration.first_input + index]
        twin = _twin(iteration, index)
        if outer is not None and _origin(result, body) in (outer, inner):
            _replace(iteration, (inner, outer), (final, outer))
        elif twin is not None:
            _replace(
                iteration,
                (inner, body.inputs[iteration.first_input + twin]),
                (final, node.outputs[twin]),
            )
        elif is_read or _is_read(inner, body):
            continue
        if len(node.outputs) > 1:
            return _without(iteration, index)
    return None


def _origin(value: ir.Value, body: ir.Graph) -> ir.Value:
    """Where a value comes from, Identity nodes of the body skipped."""
    node = value.producer()
    while node is not None and node.graph is body and _is_identity(node):
        assert node.inputs[0] is not None
        value, node = node.inputs[0], node.inputs[0].producer()
    return value


def _is_identity(node: ir.Node) -> bool:
    return node.op_type == "Identity" and not node.domain


def _is_read(inner: ir.Value, body: ir.Graph) -> bool:
    return bool(inner.uses()) or any(value is inner for value in body.outputs)


def _twin(iteration: Iteration, index: int) -> int | None:
    """Another state that ends as this one does, and begins so where that matters."""
    node, body = iteration.node, iteration.body
    inputs = node.inputs[iteration.first_input :]
    results = [_origin(value, body) for value in body.outputs[iteration.first_result :]]
    begins_anyhow = iteration.surely_runs and not _is_read(
        body.inputs[iteration.first_input + index], body
    )
    for other in range(iteration.states):
        is_equal = results[other] is results[index] and (
            begins_anyhow or inputs[other] is inputs[index]
        )
        if is_equal and other != index:
            return other
    return None


def _replace(
    iteration: Iteration,
    inner: tuple[ir.Value, ir.Value],
    final: tuple[ir.Value, ir.Value],
) -> None:
    """Read another value (the second of each pair) in the body, and another behind the loop."""
    body = iteration.body
    for index, value in enumerate(body.outputs):
        if value is inner[0]:
            body.outputs[index] = _appended(body, value)
    ir.convenience.replace_all_uses_with(*inner)
    old, new = final
    if old.is_graph_output():
        new = make_instead(old, "Identity", [new], {})
    ir.convenience.replace_all_uses_with(old, new)


def _appended(body: ir.Graph, value: ir.Value) -> ir.Value:
    """A copy of a value at the end of a body: it must return what it makes itself."""
    identity = ir.node("Identity", [value])
    identity.outputs[0].type, identity.outputs[0].shape = value.type, value.shape
    body.append(identity)
    return identity.outputs[0]


def _without(iteration: Iteration, index: int) -> ir.Node:
    """Replace the node by one without a state, or without an output collected over iterations."""
    node, body, graph = iteration.node, iteration.body, iteration.node.graph
    assert graph is not None
    inputs, attributes = list(node.inputs), dict(node.attributes)
    body.outputs.pop(iteration.first_result + index)
    if index < iteration.states:
        inputs.pop(iteration.first_input + index)
        body.inputs.pop(iteration.first_input + index)
    else:
        for name in ("scan_output_axes", "scan_output_directions"):
            if name in attributes:
                listed = list(attributes[name].as_ints())
                listed.pop(index - iteration.states)
                attributes[name] = ir.AttrInt64s(name, listed)
    kept = [value for value in node.outputs if value is not node.outputs[index]]
    new = ir.Node(
        node.domain,
        node.op_type,
        inputs,
        attributes.values(),
        num_outputs=len(kept),
        name=node.name,
        doc_string=node.doc_string,
        metadata_props=dict(node.metadata_props),
    )
    for value, like in zip(new.outputs, kept, strict=True):
        describe(value, like)
    graph.insert_before(node, new)
    ir.convenience.replace_all_uses_with(kept, new.outputs, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return new
