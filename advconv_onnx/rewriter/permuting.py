"""Operators that can work on permuted tensors: how each is rewritten when its axes are reordered.

    Transpose(f(x), order)  =  f'(Transpose(x, order))

Axis ``order[j]`` of the old tensors is axis j of the new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import constant, rank_of
from advconv_onnx.rewriter.walk import input_of

Order = tuple[int, ...]

_UNARY = (
    "Abs", "Cast", "Ceil", "Celu", "Clip", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu",
    "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal",
    "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Tanh",
    "ThresholdedRelu",
)  # fmt: skip
_BROADCASTING = (
    "Add", "And", "Div", "Equal", "Greater", "Less", "Max", "Mean", "Min", "Mod", "Mul", "Or",
    "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
)  # fmt: skip
_REDUCING = ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")


def permuted_inputs(node: ir.Node, rank: int) -> tuple[ir.Value, ...] | None:
    """The inputs of a node that are permuted with its outputs, constants left out.

    Returns:
        None where the node cannot work on permuted tensors of this rank.
    """
    kind = _KINDS.get(node.op_type)
    if kind is None or node.domain:
        return None
    given = node.inputs if node.op_type in (*_BROADCASTING, "Concat") else node.inputs[:1]
    values = [value for value in given if value is not None]
    if not kind[0](node) or not all(_has_rank(value, rank) for value in values):
        return None
    return tuple(value for value in values if constant(value) is None)


def permute(
    op: Builder, node: ir.Node, new: Mapping[ir.Value, ir.Value], order: Order
) -> Sequence[ir.Value]:
    """Build a node again for permuted inputs.

    Args:
        op: the builder.
        node: one that ``permuted_inputs`` accepts.
        new: the permuted form of each of its permuted inputs.
        order: of the new axes.

    Returns:
        The permuted outputs.
    """
    count = len(node.inputs) if node.op_type in (*_BROADCASTING, "Concat") else 1
    inputs = [
        value if value is None or index >= count else new.get(value) or _constant(op, value, order)
        for index, value in enumerate(node.inputs)
    ]
    attributes: dict[str, Any] = dict(node.attributes)
    _KINDS[node.op_type][1](op, node, inputs, attributes, order)
    return op.node(node.op_type, inputs, attributes, len(node.outputs)).outputs


def _has_rank(value: ir.Value, rank: int) -> bool:
    array = constant(value)
    if array is not None:
        return array.ndim <= rank
    node = value.producer()
    if node is not None and node.op_type == "Transpose":
        return len(node.attributes.get_ints("perm", ())) == rank
    return rank_of(value) == rank


def _constant(op: Builder, value: ir.Value, order: Order) -> ir.Value:
    array = constant(value)
    assert array is not None
    if array.size == 1:
        return value
    shape = (1,) * (len(order) - array.ndim) + array.shape
    return op.initializer(
        np.ascontiguousarray(array.reshape(shape).transpose(order)), value.name or "constant"
    )


_Inputs = list[ir.Value | None]
_Attributes = dict[str, Any]
_Change = Callable[[Builder, ir.Node, _Inputs, _Attributes, Order], None]


def _always(node: ir.Node) -> bool:
    return True


def _nothing(
    op: Builder, node: ir.Node, inputs: _Inputs, attributes: _Attributes, order: Order
) -> None:
    pass


def _axis(
    op: Builder, node: ir.Node, inputs: _Inputs, attributes: _Attributes, order: Order
) -> None:
    attributes["axis"] = order.index(node.attributes.get_int("axis", 0) % len(order))


def _keeps_rank(node: ir.Node) -> bool:
    return node.attributes.get_int("keepdims", 1) == 1 and _is_given(node, "axes", 1)


def _axes_of(index: int) -> _Change:
    """Rename the axes that are an attribute, or a constant input."""

    def change(
        op: Builder, node: ir.Node, inputs: _Inputs, attributes: _Attributes, order: Order
    ) -> None:
        if "axes" in node.attributes:
            axes = node.attributes.get_ints("axes") or ()
            attributes["axes"] = [order.index(axis % len(order)) for axis in axes]
        elif input_of(node, index) is not None:
            array = constant(node.inputs[index])
            assert array is not None
            renamed = [order.index(int(axis) % len(order)) for axis in array]
            inputs[index] = op.initializer(np.array(renamed, np.int64), "axes")

    return change


def _is_given(node: ir.Node, name: str, index: int) -> bool:
    """Whether integers are absent, an attribute, or a constant input."""
    value = input_of(node, index)
    return value is None or constant(value) is not None or name in node.attributes


def _pads_known(node: ir.Node) -> bool:
    return _is_given(node, "pads", 1) and _is_given(node, "axes", 3)


def _pads(
    op: Builder, node: ir.Node, inputs: _Inputs, attributes: _Attributes, order: Order
) -> None:
    if input_of(node, 3) is not None:
        _axes_of(3)(op, node, inputs, attributes, order)
        return
    array = constant(input_of(node, 1))
    given = node.attributes.get_ints("pads", ()) if array is None else array
    pads = np.reshape(given, (2, -1))[:, list(order)].reshape(-1)
    if array is None:
        attributes["pads"] = pads.tolist()
    else:
        inputs[1] = op.initializer(pads.astype(np.int64), "pads")


def _has_axes(node: ir.Node) -> bool:
    has_input = input_of(node, 3) is not None and _is_given(node, "axes", 3)
    return has_input or "axes" in node.attributes


def _sizes_known(node: ir.Node) -> bool:
    """Whether a Resize is by constants for all axes, without a region of interest."""
    mode = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    given = [constant(value) for value in node.inputs[1:] if value is not None]
    is_whole = mode != "tf_crop_and_resize" and "axes" not in node.attributes
    return is_whole and all(array is not None for array in given)


def _scales(
    op: Builder, node: ir.Node, inputs: _Inputs, attributes: _Attributes, order: Order
) -> None:
    for index in range(1, len(node.inputs)):
        array = constant(node.inputs[index])
        if array is not None and array.size == len(order):
            inputs[index] = op.initializer(array.reshape(-1)[list(order)], "scales")


_KINDS: dict[str, tuple[Callable[[ir.Node], bool], _Change]] = {
    **dict.fromkeys((*_UNARY, *_BROADCASTING), (_always, _nothing)),
    **dict.fromkeys(("Concat", "Split"), (_always, _axis)),
    **dict.fromkeys(_REDUCING, (_keeps_rank, _axes_of(1))),
    "Pad": (_pads_known, _pads),
    "Slice": (_has_axes, _axes_of(3)),
    "Resize": (_sizes_known, _scales),
}
"""For each operator, whether a node can be permuted, and what changes in it."""
