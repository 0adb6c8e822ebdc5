"""Files of models that are only timed, in which large weights are made when the file is loaded.

How fast a model is does not depend on its weights. So those that were not computed yet need not
be, and what a search writes for hundreds of variants stays as small as their graphs. ONNX Runtime
folds the nodes that stand for weights before it looks at what reads them.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx import serialization

_LARGE = 1 << 12
"""Bytes of a weight that is replaced; smaller ones may be shapes, scales or bounds."""

_NUMBER = 2.0**-7
"""In place of weights, a little more for each: sums of thousands of products stay finite."""

_MINIMUM_OPSET = 9
"""Has ConstantOfShape."""


def write_stand_in(model: ir.Model, path: Path) -> Path:
    """Write a model with any numbers for its large weights, and return the path.

    Integers are kept, since they may be indices.

    Args:
        model: stays as it is.
        path: of a file that need not outlive the process.
    """
    copy = model.clone()
    # Equal weights would let ONNX Runtime merge what reads them.
    numbers = itertools.count(_NUMBER, _NUMBER / 64)
    for graph in copy.graphs():
        for value in list(graph.initializers.values()):
            tensor = value.const_value
            if tensor is None:
                continue
            if _is_replaced(tensor) and files.opset(model) >= _MINIMUM_OPSET:
                _make_when_loaded(graph, value, tensor, next(numbers))
            elif isinstance(tensor, ir.ExternalTensor):  # its file is somewhere else
                value.const_value = ir.tensor(tensor.numpy(), name=tensor.name)
    with path.open("wb") as file:
        serialization.write(copy, file)
    return path


def _is_replaced(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype.is_floating_point() and tensor.nbytes > _LARGE


def _make_when_loaded(
    graph: ir.Graph, value: ir.Value, tensor: ir.TensorProtocol, number: float
) -> None:
    shape = ir.Value(
        name=f"{value.name} shape",
        const_value=ir.tensor(np.array(tensor.shape.numpy(), np.int64), name=f"{value.name} shape"),
    )
    content = ir.tensor(np.array([number]).astype(tensor.dtype.numpy()))
    node = ir.node("ConstantOfShape", [shape], {"value": content})
    [made] = node.outputs
    ir.convenience.replace_all_uses_with(value, made)
    del graph.initializers[value.name or ""]
    graph.register_initializer(shape)
    graph.insert_before(graph[0], node)
    made.name = value.name
