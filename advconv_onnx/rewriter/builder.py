"""Records the nodes of a replacement before they belong to a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

MERGED_NAMES = "advconv_onnx.merged_nodes"
"""Key of ``metadata_props`` where a new node keeps the names of the nodes it came from."""


class Builder:
    """Any operator as a method: ``op.Conv(x, w, strides=[2, 2])`` returns its first output.

    Attributes:
        opset: version of the model's default operator set.
        nodes: the nodes built so far.
        initializers: the constants made so far.
    """

    def __init__(self, opset: int, merged: Iterable[str]) -> None:
        self.opset = opset
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self._merged = ",".join(dict.fromkeys(merged))

    def __getattr__(self, op_type: str) -> Callable[..., ir.Value]:
        def build(*inputs: ir.Value | None, **attributes: Any) -> ir.Value:
            return self.node(op_type, inputs, attributes).outputs[0]

        return build

    def node(
        self,
        op_type: str,
        inputs: Iterable[ir.Value | None],
        attributes: dict[str, Any],
        num_outputs: int = 1,
    ) -> ir.Node:
        """Build a node with any number of outputs; trailing absent inputs are left out."""
        given = list(inputs)
        while given and given[-1] is None:
            given.pop()
        node = ir.node(op_type, given, attributes, num_outputs=num_outputs)
        node.metadata_props[MERGED_NAMES] = self._merged
        self.nodes.append(node)
        return node

    def initializer(self, array: Any, name: str) -> ir.Value:
        """Add a constant; its name is made unique when the proposal is committed."""
        return self._constant(ir.tensor(array, name=name))

    def computed(
        self, make: Callable[[], Any], shape: Sequence[int], dtype: Any, name: str
    ) -> ir.Value:
        """Add a constant that is computed when it is needed: most forms are never made.

        Args:
            make: returns the array.
            shape: of the array.
            dtype: numpy's, to which the array is converted.
            name: made unique when the proposal is committed.
        """

        def tensor() -> ir.TensorProtocol:
            return ir.tensor(make().reshape(shape).astype(dtype))

        kind = ir.DataType.from_numpy(np.dtype(dtype))
        return self._constant(ir.LazyTensor(tensor, kind, ir.Shape(shape), cache=True, name=name))

    def _constant(self, tensor: ir.TensorProtocol) -> ir.Value:
        value = ir.Value(
            name=tensor.name,
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self.initializers.append(value)
        return value

    def own(self, values: Iterable[ir.Value]) -> list[ir.Value]:
        """Make sure that each of the replacement's outputs is made by a node of its own."""
        made: list[ir.Value] = []
        for value in values:
            is_own = value.producer() in self.nodes and value not in made
            made.append(value if is_own else self.Identity(value))
        return made


def scaled(op: Builder, y: ir.Value, factor: float, like: ir.Value) -> ir.Value:
    """``y`` times a factor, in the type of ``like``; ``y`` itself for the factor 1."""
    if factor == 1:
        return y
    dtype = np.float32 if like.dtype is None else like.dtype.numpy()
    return op.Mul(y, op.initializer(np.array(factor, dtype), "factor"))
