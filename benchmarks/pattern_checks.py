"""One model of the pattern matrix, and what tells whether a tool folded it."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx
import onnx.parser
import onnx.shape_inference
from numpy.typing import NDArray

Folded = Callable[[onnx.ModelProto], bool]

C = 8
"""Channels of most inputs; also the height and width of one of the inputs tried."""

SIZES: tuple[Mapping[str, int], ...] = (
    {"N": 2, "H": 8, "W": 8, "D": 8, "L": 8, "E": 8, "F": 8, "ONE": 1},
    {"N": 1, "H": 9, "W": 13, "D": 7, "L": 13, "E": 12, "F": 16, "ONE": 1},
)
"""Sizes the dynamic dimensions are given: E and F are even, the others odd the second time."""


@dataclasses.dataclass(frozen=True)
class Positive:
    """Values between 0.5 and 2: variances and divisors."""

    shape: tuple[int, ...]


Weight = tuple[int, ...] | Positive | NDArray[np.generic]
"""What to draw, as a shape with values of both signs or positive ones, or the values themselves."""


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A model in ONNX text, and what it should become.

    Attributes:
        body: the nodes.
        weights: initializers by name.
        folded: whether a model made of this one is what a good tool makes of it; None where the
            usual fold is wrong.
        inputs: of the graph; shapes of outputs that are not written are inferred.
        functions: local functions of domain "local", ONNX text.
    """

    group: str
    name: str
    body: str
    weights: Mapping[str, Weight]
    folded: Folded | None
    inputs: str = "float[N,8,H,W] x"
    outputs: str = "float y"
    opset: int = 18
    functions: str = ""

    def build(self, seed: int) -> onnx.ModelProto:
        """Draw the weights and infer the shapes of the outputs."""
        imports = f'"" : {self.opset}' + (', "local" : 1' if self.functions else "")
        model = onnx.parser.parse_model(
            f"<ir_version: 8, opset_import: [{imports}]> "
            f"pattern ({self.inputs}) => ({self.outputs}) {{ {self.body} }} {self.functions}"
        )
        rng = np.random.default_rng(seed)
        for name, weight in self.weights.items():
            tensor = onnx.numpy_helper.from_array(np.asarray(_draw(weight, rng)), name)
            model.graph.initializer.append(tensor)
        for output in model.graph.output:
            if not output.type.tensor_type.shape.dim:  # to the parser that is a scalar
                output.type.tensor_type.ClearField("shape")
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        for output, known in zip(model.graph.output, inferred.graph.output, strict=True):
            output.CopyFrom(known)
        onnx.checker.check_model(model, full_check=True)
        return model


def _draw(weight: Weight, rng: np.random.Generator) -> NDArray[np.generic]:
    if isinstance(weight, Positive):
        return rng.uniform(0.5, 2, weight.shape).astype(np.float32)
    if isinstance(weight, tuple):
        scale = math.sqrt(math.prod(weight[1:]))
        return (rng.normal(size=weight) / scale).astype(np.float32)
    return weight


# What a folded model looks like.


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                if body.node:
                    yield from _graphs(body)


def operators(model: onnx.ModelProto) -> collections.Counter[str]:
    """Operators of all graphs and functions by name, without what costs nothing to run.

    That is constants, what is computed from nothing else, and identities.
    """
    constant = {""}  # an input left out
    found: collections.Counter[str] = collections.Counter()
    for graph in _graphs(model.graph):
        constant.update(tensor.name for tensor in graph.initializer)
        for node in graph.node:
            if node.op_type not in ("If", "Loop", "Scan") and constant.issuperset(node.input):
                constant.update(node.output)
            elif node.op_type != "Identity":
                found[node.op_type] += 1
    inner = (node.op_type for function in model.functions for node in function.node)
    return found + collections.Counter(inner)


def _parameters(model: onnx.ModelProto) -> int:
    """Elements of all constants but those that say where or how far."""
    tensors = [tensor for graph in _graphs(model.graph) for tensor in graph.initializer]
    for graph in _graphs(model.graph):
        tensors += [a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute]
    floats = (tensor for tensor in tensors if tensor.data_type == onnx.TensorProto.FLOAT)
    return sum(math.prod(tensor.dims) for tensor in floats)


def nodes(most: int) -> Folded:
    """At most this many nodes are left."""
    return lambda model: operators(model).total() <= most


def gone(*types: str) -> Folded:
    """No operator of these types is left."""
    return lambda model: not operators(model).keys() & set(types)


def becomes(op_type: str, most: int = 1) -> Folded:
    """This operator appears, and at most this many nodes are left."""
    return lambda model: op_type in operators(model) and operators(model).total() <= most


def parameters(most: int) -> Folded:
    """The weights have at most this many elements."""
    return lambda model: _parameters(model) <= most


def attribute(op_type: str, name: str, value: object) -> Folded:
    """All operators of this type, one or more, have an attribute of this value."""

    def holds(model: onnx.ModelProto) -> bool:
        found = [node for g in _graphs(model.graph) for node in g.node if node.op_type == op_type]
        values = [
            onnx.helper.get_attribute_value(attribute)
            for node in found
            for attribute in node.attribute
            if attribute.name == name
        ]
        return bool(found) and values == [value] * len(found)

    return holds
