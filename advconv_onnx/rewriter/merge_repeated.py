"""Computes once what a model computes several times from the same values.

A body also sees what the graphs around it have computed before it: onnx-ir's own pass leaves
bodies alone, and knows of fewer operators that draw random numbers.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Hashable

import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx.rewriter.builder import MERGED_NAMES
from advconv_onnx.rewriter.notes import hand_on
from advconv_onnx.rewriter.repeatable import is_repeatable

_SMALL = 64
"""Elements up to which tensors in attributes are compared."""

_COMPARED = (
    ir.AttributeType.FLOAT,
    ir.AttributeType.FLOATS,
    ir.AttributeType.INT,
    ir.AttributeType.INTS,
    ir.AttributeType.STRING,
    ir.AttributeType.STRINGS,
)
"""Types of attributes that are compared, besides small tensors: no bodies, no types."""


class MergeRepeated(ir.passes.InPlacePass):
    """Merge nodes that do the same with the same values, those with bodies excepted."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Merge them, in place; graphs must be sorted."""
        merged = _merge(model.graph, ChainMap())
        for function in model.functions.values():
            merged += _merge(function.graph, ChainMap())
        return ir.passes.PassResult(model, modified=bool(merged))


def _merge(graph: ir.Graph, known: ChainMap[Hashable, ir.Node]) -> int:
    """Merge the nodes of a graph and its bodies; how many there were.

    Args:
        graph: changed in place.
        known: the nodes that graphs around it have before it, by what they compute.
    """
    merged = 0
    for node in list(graph):
        for _, body in files.bodies(node):
            merged += _merge(body, known.new_child())
        key = _meaning(node)
        if key is None:
            continue
        same = known.setdefault(key, node)
        if same is not node:
            _replace(node, same)
            merged += 1
    return merged


def _meaning(node: ir.Node) -> Hashable | None:
    """What a node computes; None where another node cannot be compared with it or replace it."""
    # An Identity that is left stands for an output of its own, and would get another at once.
    if not is_repeatable(node) or (node.op_type == "Identity" and not node.domain):
        return None
    attributes: list[Hashable] = []
    for name, attribute in sorted(node.attributes.items()):
        if attribute.is_ref():
            attributes.append((name, attribute.ref_attr_name))
            continue
        value = attribute.value
        if isinstance(value, ir.TensorProtocol):
            if value.size > _SMALL:
                return None
            value = (value.dtype, tuple(value.shape.numpy()), value.tobytes())
        elif attribute.type not in _COMPARED:
            return None
        attributes.append((name, attribute.type, tuple(value) if _is_listed(value) else value))
    wanted = tuple(output.name != "" for output in node.outputs)
    return (node.op_identifier(), tuple(node.inputs), wanted, tuple(attributes))


def _is_listed(value: object) -> bool:
    return isinstance(value, (list, tuple))


def _replace(node: ir.Node, same: ir.Node) -> None:
    """Let everything read the outputs of ``same``; the node goes."""
    graph = node.graph
    assert graph is not None
    for old, new in zip(node.outputs, same.outputs, strict=True):
        new.type, new.shape = new.type or old.type, new.shape or old.shape
        if old.is_graph_output():
            _return(new, old, graph)
        ir.convenience.replace_all_uses_with(old, new)
    hand_on(node, same)
    names = [_origin(same), _origin(node)]
    if all(names):
        same.metadata_props[MERGED_NAMES] = ",".join(dict.fromkeys(names))
    graph.remove(node, safe=True)


def _return(value: ir.Value, old: ir.Value, graph: ir.Graph) -> None:
    """Make a value an output of a graph in the place, and with the name, of another."""
    if value.graph is not graph or value.is_graph_output():
        copy = ir.node("Identity", [value])
        copy.outputs[0].type, copy.outputs[0].shape = old.type, old.shape
        graph.append(copy)
        value = copy.outputs[0]
    value.name = old.name
    hand_on(old, value)
    for index, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[index] = value


def _origin(node: ir.Node) -> str:
    return node.metadata_props.get(MERGED_NAMES, node.name or "")
