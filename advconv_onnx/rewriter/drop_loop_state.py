"""Takes what a Loop or Scan carries around for nothing out of it.

A state that the body hands on as it got it is the value the loop was given: the body reads that
one from outside, where it may be a constant and what depends on it need not be computed again and
again. ONNX Runtime copies every state in every iteration, weights too: exporters of PaddlePaddle
carry all weights of a recurrent cell. A state or a collected output that nothing reads goes.
"""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx.rewriter.iteration import Iteration, iteration_of, iterations


class DropLoopState(ir.passes.InPlacePass):
    """Drop states that never change, and states and collected outputs that nothing reads."""

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
        if outer is not None and _origin(result, body) in (outer, inner):
            _read_outside(iteration, inner, outer, final)
        elif is_read or _is_read(inner, body) or result is inner:
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


def _read_outside(iteration: Iteration, inner: ir.Value, outer: ir.Value, final: ir.Value) -> None:
    """Read a state that never changes from outside, in the body and behind the loop."""
    body, graph = iteration.body, iteration.node.graph
    assert graph is not None
    for index, value in enumerate(body.outputs):
        if value is inner:
            body.outputs[index] = _appended(body, value)
    ir.convenience.replace_all_uses_with(inner, outer)
    if final.is_graph_output():
        copy = _named_after(final, outer)
        graph.insert_after(iteration.node, copy)
        ir.convenience.replace_all_uses_with(final, copy.outputs[0], replace_graph_outputs=True)
    else:
        ir.convenience.replace_all_uses_with(final, outer)


def _appended(body: ir.Graph, value: ir.Value) -> ir.Value:
    """A copy of a value at the end of a body: it must return what it makes itself."""
    identity = ir.node("Identity", [value])
    identity.outputs[0].type, identity.outputs[0].shape = value.type, value.shape
    body.append(identity)
    return identity.outputs[0]


def _named_after(final: ir.Value, value: ir.Value) -> ir.Node:
    identity = ir.node("Identity", [value])
    _describe(identity.outputs[0], final)
    return identity


def _describe(value: ir.Value, like: ir.Value) -> None:
    value.name, value.type, value.shape = like.name, like.type, like.shape
    value.doc_string = like.doc_string
    value.metadata_props.update(like.metadata_props)


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
        _describe(value, like)
    graph.insert_before(node, new)
    ir.convenience.replace_all_uses_with(kept, new.outputs, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return new
