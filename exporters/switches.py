"""What each layer alone changes in the outputs: one model in which every change can be let through.

value = exact + switch * (changed - exact)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from advconv_onnx.runtime.engine import run_session

_INPUT = "which layers change"
"""Of copies that are only looked at."""

Arrays = Mapping[str, np.ndarray]


class Switches:
    """A further input (layers, 1) of a graph: 1 for layers that change, 0 for others."""

    def __init__(self, graph: ir.Graph, layers: int) -> None:
        """Add the input."""
        self._graph = graph
        self._value = ir.Value(
            name=_INPUT, shape=ir.Shape([layers, 1]), type=ir.TensorType(ir.DataType.FLOAT)
        )
        graph.inputs.append(self._value)

    def of(self, index: int, label: str) -> ir.Value:
        """The switch of one layer."""
        row = ir.Value(name=f"{label} row", const_value=ir.tensor(np.int64(index)))
        self._graph.register_initializer(row)
        return append(self._graph, "Gather", [self._value, row], f"{label} switch")

    def choose(self, exact: ir.Value, changed: ir.Value, switch: ir.Value, label: str) -> ir.Value:
        """What a value is, as the switch stands."""
        change = append(self._graph, "Sub", [changed, exact], f"{label} change")
        change = append(self._graph, "Mul", [change, switch], f"{label} switched")
        chosen = append(self._graph, "Add", [exact, change], f"{label} chosen")
        chosen.type, chosen.shape = exact.type, exact.shape
        return chosen


def append(
    graph: ir.Graph, op_type: str, inputs: Sequence[ir.Value], name: str, **attributes: Any
) -> ir.Value:
    """Add a node at the end of a graph, to be sorted then; return its output."""
    node = ir.node(op_type, inputs, attributes)
    node.outputs[0].name = name
    graph.append(node)
    return node.outputs[0]


def alone(
    session: ort.InferenceSession, inputs: Arrays, layers: int
) -> Iterator[tuple[Arrays, Arrays]]:
    """Yield, for each layer, the outputs without any change and those with its own."""
    off = np.zeros((layers, 1), np.float32)
    exact = run_session(session, {**inputs, _INPUT: off})
    for index in range(layers):
        on = off.copy()
        on[index] = 1
        yield exact, run_session(session, {**inputs, _INPUT: on})
