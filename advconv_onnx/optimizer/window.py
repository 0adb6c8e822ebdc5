"""A site in its surroundings, small enough to be timed alone.

What a form gains or loses depends on its neighbours: ONNX Runtime keeps a blocked layout between
convolutions, and a form that leaves it pays for the reorders at its borders. So a window holds the
site, the light operators around it, and in place of the convolutions beyond them cheap ones, which
keep the layout as it is in the model and take hardly any time of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from advconv_onnx.geometry import shape_of
from advconv_onnx.rewriter.cut import small_model

_LIGHT = frozenset(
    (
        *("Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Elu", "Gelu"),
        *("HardSigmoid", "HardSwish", "LeakyRelu", "MaxPool", "Mul", "PRelu", "Relu"),
        *("Resize", "Sigmoid", "Sub", "Tanh"),
    )
)
"""Operators that take little time and mostly leave the layout as it is."""

_REACH = 2
"""Light operators followed on either side of the site."""

_CHANNELS = 16
"""Of the cheap convolutions: a block of the layout on the widest processors."""


def window(nodes: Sequence[ir.Node], opset_imports: dict[str, int]) -> ir.Model:
    """Copy a site and what surrounds it into a model of its own.

    The copies keep the names of the nodes.

    Args:
        nodes: of the site, in a graph whose shapes were inferred and are static.
        opset_imports: versions of the operator sets by domain.
    """
    ordered = surroundings(nodes)
    region = set(ordered)
    made = [value for node in ordered for value in node.outputs if value.name]
    readers = {value: [node for node, _ in value.uses()] for value in made}
    sinks = [v for v in made if not any(reader in region for reader in readers[v])]
    fed = {
        value.name
        for node in ordered
        for value in node.inputs
        if value is not None and _is_light(value.producer(), "Conv")
    }
    read = {v.name for v in sinks if any(node.op_type == "Conv" for node in readers[v])}
    model = small_model(ordered, sinks, opset_imports)
    rng = np.random.default_rng(0)
    for value in list(model.graph.inputs):
        if value.name in fed:
            _feed(model.graph, value, rng)
    for index, value in enumerate(model.graph.outputs):
        if value.name in read:
            model.graph.outputs[index] = _read(model.graph, value, rng)
    return model


def surroundings(nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """The nodes of a site and the light ones around it, in graph order."""
    graph = nodes[0].graph
    assert graph is not None
    region = {*nodes, *_above(nodes), *_below(nodes)}
    return [node for node in graph if node in region]


def _is_light(node: ir.Node | None, *others: str) -> bool:
    return node is not None and not node.domain and (node.op_type in (*_LIGHT, *others))


def _above(nodes: Sequence[ir.Node], reach: int = _REACH) -> Iterator[ir.Node]:
    """Light nodes that a site reads from."""
    if not reach:
        return
    made = {value for node in nodes for value in node.outputs}
    for value in (value for node in nodes for value in node.inputs):
        producer = value.producer() if value is not None and value not in made else None
        if producer is not None and _is_light(producer) and producer.graph is nodes[0].graph:
            yield producer
            yield from _above([producer], reach - 1)


def _below(nodes: Sequence[ir.Node], reach: int = _REACH) -> Iterator[ir.Node]:
    """Light nodes that read from a site."""
    if not reach:
        return
    for reader in (node for n in nodes for value in n.outputs for node, _ in value.uses()):
        if reader not in nodes and _is_light(reader) and reader.graph is nodes[0].graph:
            yield reader
            yield from _below([reader], reach - 1)


def _feed(graph: ir.Graph, value: ir.Value, rng: np.random.Generator) -> None:
    """Let a cheap convolution make an input of the window."""
    shape = _image(value)
    if shape is None:
        return
    x = ir.Value(
        name=f"{value.name}_fed",
        type=value.type,
        shape=ir.Shape([shape[0], _CHANNELS, *shape[2:]]),
    )
    graph.inputs[graph.inputs.index(value)] = x
    conv = _pointwise(graph, x, (shape[1], _CHANNELS), f"{value.name}_feed", rng)
    conv.shape, conv.type = value.shape, value.type
    ir.convenience.replace_all_uses_with(value, conv)
    graph.insert_before(graph[0], conv.producer())  # type: ignore[arg-type]


def _read(graph: ir.Graph, value: ir.Value, rng: np.random.Generator) -> ir.Value:
    """Let a cheap convolution read an output of the window; returns what it makes."""
    shape = _image(value)
    if shape is None:
        return value
    y = _pointwise(graph, value, (_CHANNELS, shape[1]), f"{value.name}_read", rng)
    y.shape, y.type = ir.Shape([shape[0], _CHANNELS, *shape[2:]]), value.type
    graph.append(y.producer())  # type: ignore[arg-type]
    return y


def _image(value: ir.Value) -> tuple[int, ...] | None:
    """Shape of a float image with enough channels to be worth a layout; None for others."""
    shape = shape_of(value) or ()
    sizes = tuple(size for size in shape if isinstance(size, int))
    if len(shape) != 4 or sizes != shape or value.dtype != ir.DataType.FLOAT:
        return None
    return sizes if sizes[1] >= _CHANNELS else None


def _pointwise(
    graph: ir.Graph, x: ir.Value, shape: tuple[int, int], name: str, rng: np.random.Generator
) -> ir.Value:
    tensor = ir.tensor(rng.normal(size=(*shape, 1, 1)).astype(np.float32), name=f"{name}_weight")
    weight = ir.Value(
        name=tensor.name,
        shape=ir.Shape(tensor.shape.numpy()),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(weight)
    node = ir.node("Conv", [x, weight], name=name)
    node.outputs[0].name = f"{name}_0"
    return node.outputs[0]
