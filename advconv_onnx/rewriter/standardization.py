"""Reading ``(x - mean(x)) / sqrt(variance(x) + epsilon)``, the core of the normalizations."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from advconv_onnx.rewriter.constants import rank_of, scalar
from advconv_onnx.rewriter.layout import given_axes
from advconv_onnx.rewriter.rule import NoSite, Refused
from advconv_onnx.rewriter.walk import maker, operands, producer, shifted

Nodes = tuple[ir.Node, ...]

_MEANS = ("ReduceMean", "GlobalAveragePool")


@dataclasses.dataclass(frozen=True)
class Standardized:
    """A tensor brought to mean 0 and variance 1.

    Attributes:
        mean: the mean of x.
        difference: x - mean.
        rank: of x.
        axes: the axes over which mean and variance are taken, ascending from the front.
        epsilon: added to the variance.
        nodes: the operators in order, the last one last.
    """

    x: ir.Value
    mean: ir.Value
    difference: ir.Value
    rank: int
    axes: tuple[int, ...]
    epsilon: float
    nodes: Nodes


def standardized(root: ir.Node) -> Standardized:
    """Read what ends in ``root``, a Div, or a Mul by a Reciprocal.

    Raises:
        NoSite: it is something else.
        Refused: the rank of x is unknown, or the two means are not over the same axes.
    """
    numerator, deviation, inverse = _quotient(root)
    core = deviation_of(deviation)
    if core.difference is not numerator:
        raise NoSite
    return dataclasses.replace(core, nodes=(*core.nodes, *inverse, root))


def deviation_of(root: ir.Node) -> Standardized:
    """Read the standard deviation ``sqrt(variance(x) + epsilon)`` that ends in ``root``, a Sqrt.

    Raises:
        NoSite: it is something else.
        Refused: the rank of x is unknown, or the two means are not over the same axes.
    """
    shift, epsilon, add = shifted(root.inputs[0], root.graph)
    variance = producer(shift, *_MEANS, graph=root.graph)
    square = producer(variance.inputs[0], "Pow", "Mul", graph=root.graph)
    difference = square.inputs[0]
    if difference is None or not _is_square(square):
        raise NoSite
    subtraction = producer(difference, "Sub", graph=root.graph)
    x = subtraction.inputs[0]
    mean = producer(subtraction.inputs[1], *_MEANS, graph=root.graph)
    if x is None or mean.inputs[0] is not x:
        raise NoSite
    rank = rank_of(x)
    if rank is None:
        raise Refused(f"the rank of '{x.name}' is unknown")
    axes, others = _axes(mean, rank), _axes(variance, rank)
    if axes != others:
        raise Refused(f"the mean is over axes {list(axes)}, the variance over {list(others)}")
    nodes = (mean, subtraction, square, variance, add, root)
    return Standardized(x, mean.outputs[0], difference, rank, axes, epsilon, nodes)


def _quotient(root: ir.Node) -> tuple[ir.Value, ir.Node, Nodes]:
    """The numerator, the Sqrt it is divided by, and the Reciprocal between them."""
    if root.op_type == "Div":
        numerator = root.inputs[0]
        assert numerator is not None
        return numerator, producer(root.inputs[1], "Sqrt", graph=root.graph), ()
    for numerator, other in operands(root):
        inverse = maker(other, "Reciprocal", graph=root.graph)
        if inverse is not None:
            return numerator, producer(inverse.inputs[0], "Sqrt", graph=root.graph), (inverse,)
    raise NoSite


def _is_square(node: ir.Node) -> bool:
    base, other = node.inputs[0], node.inputs[1]
    assert base is not None
    return other is base if node.op_type == "Mul" else scalar(other, rank_of(base)) == 2


def _axes(mean: ir.Node, rank: int) -> tuple[int, ...]:
    if mean.op_type == "GlobalAveragePool":
        return tuple(range(2, rank))
    if not mean.attributes.get_int("keepdims", 1):
        raise NoSite
    return tuple(sorted(given_axes(mean, 1, rank) or ()))
