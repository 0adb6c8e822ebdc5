"""Reading activations that are spelled with several element-wise operators.

Only nodes of the root's own graph whose values nothing else reads are taken into a spelling.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.constants import constant, rank_of, scalar
from advconv_onnx.rewriter.rule import NoSite, Refused
from advconv_onnx.rewriter.walk import (
    input_of,
    is_only_read_by,
    maker,
    only_reader,
    operands,
    producer,
    shifted,
)

CLIPS = frozenset(("Clip", "Relu", "Min", "Max"))
"""Operators that can bound a tensor by constants."""

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def require_float(x: ir.Value) -> None:
    """Refuse types for which ONNX Runtime lacks kernels of most activations, such as float64.

    A narrower type than float32 is one that other providers have kernels for.

    Raises:
        Refused: the type is another one or unknown.
    """
    if x.dtype not in _FLOATS:
        raise Refused(f"the type of '{x.name}' is {x.dtype or 'unknown'}")


def require_elements(x: ir.Value, least: int) -> None:
    """Refuse a tensor that is known to be small, where the time to start a kernel counts most.

    Args:
        x: the tensor; the batch counts as 1.
        least: elements from which on it is large.

    Raises:
        Refused: it is known to be smaller, or nothing is known.
    """
    if x.shape is None:
        raise Refused(f"the shape of '{x.name}' is unknown")
    sizes = [size for size in x.shape[1:] if isinstance(size, int)]
    if len(sizes) == len(x.shape) - 1 and math.prod(sizes) < least:
        raise Refused(f"'{x.name}' has fewer than {least} elements an image")


def scalar_operand(node: ir.Node) -> tuple[ir.Value, float]:
    """Read a node of two inputs, one of them a scalar constant: (the other, the number).

    Raises:
        NoSite: there are more inputs, or none or both are constants.
    """
    if len(node.inputs) == 2:
        for x, other in operands(node):
            number = scalar(other, rank_of(x))
            if number is not None and constant(x) is None:
                return x, number
    raise NoSite


def negated(value: ir.Value | None, graph: ir.Graph | None) -> tuple[ir.Value, ir.Node]:
    """Read ``-x``, a Neg or a Mul by -1: (x, node).

    Raises:
        NoSite: the value is made otherwise.
    """
    node = producer(value, "Neg", "Mul", graph=graph)
    if node.op_type == "Mul":
        x, sign = scalar_operand(node)
        if sign == -1:
            return x, node
    elif node.inputs[0] is not None:
        return node.inputs[0], node
    raise NoSite


@dataclasses.dataclass(frozen=True)
class Bounded:
    """``min(max(x, low), high)``, spelled with Clip, Relu, Min and Max.

    Attributes:
        low: -inf where there is no bound.
        high: inf where there is no bound.
        nodes: the operators, the last one last.
    """

    x: ir.Value
    low: float
    high: float
    nodes: tuple[ir.Node, ...]


def bounded(last: ir.Node) -> Bounded:
    """Read the longest chain of bounds that ends in ``last``.

    Raises:
        NoSite: ``last`` is no bound by scalar constants.
    """
    x, low, high = _bounds(last)
    above = maker(x, *CLIPS, graph=last.graph)
    if above is not None and is_only_read_by(x, last):
        try:
            inner = bounded(above)
        except NoSite:
            pass
        else:
            # What the inner bounds let through, moved into the outer ones.
            inner_low, inner_high = (
                min(max(bound, low), high) for bound in (inner.low, inner.high)
            )
            return Bounded(inner.x, inner_low, inner_high, (*inner.nodes, last))
    return Bounded(x, low, high, (last,))


def is_bounded_further(node: ir.Node) -> bool:
    """Whether all that reads a node is one more bound by constants."""
    y = node.outputs[0]
    reader = only_reader(y)
    if (
        reader is None
        or reader.domain
        or reader.op_type not in CLIPS
        or reader.graph is not node.graph
    ):
        return False
    try:
        return _bounds(reader)[0] is y
    except NoSite:
        return False


def _bounds(node: ir.Node) -> tuple[ir.Value, float, float]:
    low, high = -math.inf, math.inf
    if node.op_type in ("Relu", "Clip"):
        x = node.inputs[0]
        if x is None or constant(x) is not None:
            raise NoSite
        low, high = (0.0, high) if node.op_type == "Relu" else _clip_bounds(node, x)
    elif node.op_type == "Max":
        x, low = scalar_operand(node)
    else:
        x, high = scalar_operand(node)
    if math.isnan(low) or math.isnan(high):
        raise NoSite
    return x, low, high


def _clip_bounds(clip: ir.Node, x: ir.Value) -> tuple[float, float]:
    """Bounds given as attributes (before opset 11) or inputs; the largest finite number is none."""
    bounds = [
        clip.attributes.get_float("min", -math.inf),
        clip.attributes.get_float("max", math.inf),
    ]
    for index in (1, 2):
        given = input_of(clip, index)
        if given is not None:
            number = scalar(given, rank_of(x))
            if number is None:
                raise NoSite
            bounds[index - 1] = number
    largest = float(np.finfo(np.float32).max)
    return tuple(  # type: ignore[return-value]
        math.copysign(math.inf, bound) if abs(bound) >= largest else bound for bound in bounds
    )


def one_plus_exp_of_minus(
    value: ir.Value | None, graph: ir.Graph | None
) -> tuple[ir.Value, tuple[ir.Node, ...]]:
    """Read ``1 + exp(-x)``, the denominator of a sigmoid: (x, its nodes).

    Raises:
        NoSite: the value is made otherwise.
        Refused: another number than 1 is added.
    """
    power, one, add = shifted(value, graph)
    exp = producer(power, "Exp", graph=graph)
    x, negative = negated(exp.inputs[0], graph)
    if one != 1:
        raise Refused(f"the constant added to exp(-x) is {one:g}, not 1")
    return x, (negative, exp, add)
