"""Loop and Scan read alike: what they carry from one iteration to the next."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.notes import hand_on
from advconv_onnx.rewriter.proposal import names_in, unique

_SCAN_SINCE = 9
"""The first opset in which Scan has no batch and no sequence lengths."""


@dataclasses.dataclass(frozen=True)
class Iteration:
    """A Loop or Scan and the places of its states.

    State ``k`` enters as ``node.inputs[first_input + k]`` and is ``body.inputs[first_input + k]``
    in the body, which returns it as ``body.outputs[first_result + k]``; it leaves as
    ``node.outputs[k]``. What is collected over all iterations follows in ``node.outputs``.
    """

    node: ir.Node
    body: ir.Graph
    states: int
    first_input: int
    first_result: int

    @property
    def surely_runs(self) -> bool:
        """Whether the body is known to run at least once."""
        if self.node.op_type == "Scan":
            return any(map(_has_elements, self.node.inputs[self.states :]))
        count, condition = self.node.inputs[:2]
        return _is_absent_or(count, 1) and _is_absent_or(condition, 1)


def _has_elements(value: ir.Value | None) -> bool:
    """Whether all sizes of a value are known and none is 0, whichever axis is scanned."""
    shape = None if value is None else value.shape
    return shape is not None and all(isinstance(dim, int) and dim > 0 for dim in shape)


def _is_absent_or(value: ir.Value | None, least: int) -> bool:
    """Whether an optional input is left out or a constant of at least a number."""
    if value is None:
        return True
    array = constant(value)
    return array is not None and array.size == 1 and int(array.reshape(())) >= least


def iterations(model: ir.Model) -> Iterator[Iteration]:
    """Every Loop and Scan outside of local functions, those inside others first.

    The node may be replaced while this runs.
    """
    for graph in reversed(list(model.graphs())):
        for node in list(graph):
            iteration = iteration_of(node, files.opset(model))
            if iteration is not None:
                yield iteration


def iteration_of(node: ir.Node, opset: int) -> Iteration | None:
    """Read a Loop or Scan; None for another node, or one whose parts do not fit together."""
    if node.op_type not in ("Loop", "Scan") or node.domain:
        return None
    body = next((graph for name, graph in files.bodies(node) if name == "body"), None)
    if body is None:
        return None
    if node.op_type == "Loop":
        states = len(body.inputs) - 2
        iteration = Iteration(node, body, states, first_input=2, first_result=1)
    elif node.op_type == "Scan" and opset >= _SCAN_SINCE:
        states = len(body.inputs) - node.attributes.get_int("num_scan_inputs", 0)
        iteration = Iteration(node, body, states, first_input=0, first_result=0)
    else:
        return None
    fits = len(node.inputs) == len(body.inputs) and (
        len(node.outputs) + iteration.first_result == len(body.outputs)
    )
    return iteration if fits and states >= 0 else None


def make_instead(
    old: ir.Value, op_type: str, inputs: Sequence[ir.Value], attributes: dict[str, Any]
) -> ir.Value:
    """Make a node's output by another operator, put behind the node; all readers follow."""
    node = old.producer()
    assert node is not None
    assert node.graph is not None
    new = ir.node(op_type, inputs, attributes)
    describe(new.outputs[0], old)
    node.graph.insert_after(node, new)
    ir.convenience.replace_all_uses_with(old, new.outputs[0], replace_graph_outputs=True)
    return new.outputs[0]


def describe(value: ir.Value, like: ir.Value) -> None:
    """Give a value the name, the type and all that is noted of another, which it replaces."""
    value.name, value.type, value.shape = like.name, like.type, like.shape
    hand_on(like, value)


def lift_constant(value: ir.Value, graph: ir.Graph, model: ir.Model) -> None:
    """Give a constant, which may be one of a body, to a graph around it."""
    if value.graph is not None:
        assert value.name is not None
        value.graph.initializers.pop(value.name)
    if not value.name or value.name in graph.initializers:
        value.name = unique(value.name or "constant", names_in(model))
    graph.register_initializer(value)
