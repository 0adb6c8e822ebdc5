"""Shape inference in place: onnx's own, fed without large weights, and only what it found is read.

onnx-ir's pass does the same with a scan of all inputs per weight, and builds the whole model anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx
import onnx_ir as ir

_LARGE = 1000
"""Bytes of a weight that shape inference does not get to see: it only reads sizes and axes."""


def infer(model: ir.Model) -> None:
    """Infer types and shapes in place; a model on which inference fails stays as it is."""
    proto = _without_large_weights(model)
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except Exception:  # It raises whatever the C++ code does; unknown shapes are no event here.
        return
    _adopt(model.graph, proto.graph, inferred.graph)


def _without_large_weights(model: ir.Model) -> onnx.ModelProto:
    """The model's message, with its large weights as inputs."""
    graph = model.graph
    listed = {value.name for value in graph.inputs}
    weights = list(graph.initializers.values())
    for value in weights:
        if value.const_value is not None:
            value.shape = value.shape or ir.Shape(value.const_value.shape.numpy())
            value.dtype = value.dtype or value.const_value.dtype
    large = [v for v in weights if v.const_value is None or v.const_value.nbytes > _LARGE]
    try:
        for value in large:
            del graph.initializers[value.name or ""]
        proto = ir.serde.serialize_model(model)
    finally:
        graph.initializers.clear()
        for value in weights:
            graph.initializers.add(value)
    unlisted = (value for value in large if value.name not in listed)
    proto.graph.input.extend(map(ir.serde.serialize_value, unlisted))
    return proto


def _adopt(graph: ir.Graph, before: onnx.GraphProto, after: onnx.GraphProto) -> None:
    """Take over the types and shapes that inference changed, in bodies too."""
    known = {info.name: info.type for info in (*before.value_info, *before.output)}
    found = {info.name: info.type for info in (*after.value_info, *after.output)}
    for node, old, new in zip(graph, before.node, after.node, strict=True):
        for value in node.outputs:
            name = value.name or ""
            if name in found and found[name] != known.get(name):
                _annotate(value, found[name])
        for name, attribute in node.attributes.items():
            for body, b, a in zip(
                _graphs(attribute), _bodies(old, name), _bodies(new, name), strict=False
            ):
                _adopt(body, b, a)


def _graphs(attribute: ir.Attr) -> Sequence[ir.Graph]:
    if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
        return (attribute.as_graph(),)
    return attribute.as_graphs() if attribute.type == ir.AttributeType.GRAPHS else ()


def _bodies(node: onnx.NodeProto, name: str) -> Iterator[onnx.GraphProto]:
    attribute = next(each for each in node.attribute if each.name == name)
    yield from [attribute.g] if attribute.HasField("g") else attribute.graphs


def _annotate(value: ir.Value, found: onnx.TypeProto) -> None:
    shape = ir.serde.deserialize_type_proto_for_shape(found)
    kind = ir.serde.deserialize_type_proto_for_type(found)
    if shape is not None:
        value.shape = shape
    if kind is not None and value.dtype != kind.dtype:
        value.type = kind
