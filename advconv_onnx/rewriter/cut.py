"""Cuts a proposal out of its graph: the site as it is and as it would be, as two small models."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from advconv_onnx.rewriter.proposal import Proposal, unique


def cut(proposal: Proposal, opset_imports: dict[str, int]) -> tuple[ir.Model, ir.Model]:
    """Make models of (the site as it is, the site rewritten).

    Their inputs have the same names (the rewritten site may have fewer), and so have their outputs.
    What bodies read from outside are inputs too. Values of unknown type are taken as float32.
    """
    replaced = proposal.site.replaced
    before = small_model(proposal.site.nodes, replaced, opset_imports)
    after = small_model(proposal.new_nodes, proposal.new_outputs, opset_imports, stand_for=replaced)
    return before, after


def small_model(
    nodes: Sequence[ir.Node],
    outputs: Sequence[ir.Value],
    opset_imports: dict[str, int],
    stand_for: Sequence[ir.Value] = (),
) -> ir.Model:
    """Copy nodes into a model of their own.

    Args:
        nodes: each after those it reads.
        outputs: values made by them that the model returns.
        opset_imports: versions of the operator sets by domain.
        stand_for: the values whose names, types and shapes the outputs get; by default their own.
    """
    copies: dict[ir.Value, ir.Value] = {}
    graph_inputs: list[ir.Value] = []
    initializers: list[ir.Value] = []
    inner: list[ir.Value] = []

    def copy(value: ir.Value | None) -> ir.Value | None:
        if value is None or value in copies:
            return None if value is None else copies[value]
        tensor = None if value.is_graph_input() else value.const_value
        copies[value] = ir.Value(
            name=value.name,
            shape=value.shape,
            type=value.type or ir.TensorType(ir.DataType.FLOAT),
            const_value=tensor,
        )
        (graph_inputs if tensor is None else initializers).append(copies[value])
        return copies[value]

    new_nodes = []
    for index, node in enumerate(nodes):
        new = ir.Node(
            node.domain,
            node.op_type,
            [copy(value) for value in node.inputs],
            [_copied(attribute, copy) for attribute in node.attributes.values()],
            num_outputs=len(node.outputs),
            name=node.name or f"n{index}",
        )
        for position, (old_value, new_value) in enumerate(
            zip(node.outputs, new.outputs, strict=True)
        ):
            # An empty name is an output that is not wanted.
            absent = old_value.name == "" and not old_value.uses()
            new_value.name = "" if absent else old_value.name or f"n{index}_{position}"
            new_value.type = old_value.type
            new_value.shape = old_value.shape
            copies[old_value] = new_value
            inner.append(new_value)
        new_nodes.append(new)
    results = [copies[value] for value in outputs]
    for result, old in zip(results, stand_for or outputs, strict=True):
        result.name = old.name or "output"
        result.type = old.type or ir.TensorType(ir.DataType.FLOAT)
        result.shape = old.shape
    # New values have no unique names before they are committed.
    taken = {value.name or "" for value in (*graph_inputs, *results)}
    for value in (*initializers, *inner):
        if value not in results and value.name != "":
            value.name = unique(value.name or "value", taken)
    graph = ir.Graph(
        graph_inputs,
        results,
        nodes=new_nodes,
        initializers=initializers,
        opset_imports=opset_imports,
        name="site",
    )
    return ir.Model(graph, ir_version=10)


def _copied(attribute: ir.Attr, copy: Callable[[ir.Value | None], ir.Value | None]) -> ir.Attr:
    """An attribute for a copy of a node: bodies read copies of what they read from outside."""
    if attribute.is_ref():
        return attribute
    if attribute.type == ir.AttributeType.GRAPH:
        return ir.AttrGraph(attribute.name, _body(attribute.as_graph(), copy))
    if attribute.type == ir.AttributeType.GRAPHS:
        return ir.AttrGraphs(attribute.name, [_body(g, copy) for g in attribute.as_graphs()])
    return attribute


def _body(graph: ir.Graph, copy: Callable[[ir.Value | None], ir.Value | None]) -> ir.Graph:
    body = graph.clone(allow_outer_scope_values=True)
    nodes = list(body.all_nodes())
    graphs = {body, *body.subgraphs()}
    for node in nodes:
        for index, value in enumerate(node.inputs):
            if value is not None and value.graph not in graphs:
                node.replace_input_with(index, copy(value))
    return body
