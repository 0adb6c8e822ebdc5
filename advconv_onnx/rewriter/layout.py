"""What an operator that moves elements does to the shape of its input, as far as that is known.

Sizes are ``int`` where known and ``str`` where not: equal names are equal sizes. A size without a
name gets one that no other has ("?2 of x" for dimension 2).
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.rule import NoSite, Refused
from advconv_onnx.rewriter.walk import input_of

Size = int | str
Sizes = tuple[Size, ...]

INT32_MAX = 2**31 - 1
"""Exporters' end of a Slice that takes the rest; no dimension is that large."""

RESHAPING = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze"))
"""Operators that keep all elements in their order."""


def sizes_of(value: ir.Value | None) -> Sizes:
    """The sizes of a tensor.

    Raises:
        NoSite: its rank is unknown.
    """
    if value is None or value.shape is None:
        raise NoSite
    dims = (dim.value if isinstance(dim, ir.SymbolicDim) else dim for dim in value.shape)
    return tuple(
        f"?{axis} of {value.name}" if dim is None else dim for axis, dim in enumerate(dims)
    )


def given_ints(node: ir.Node, name: str, index: int) -> list[int] | None:
    """Integers that are an attribute in old opsets and an input since; None where absent.

    Raises:
        NoSite: they are computed.
    """
    if name in node.attributes:
        return list(node.attributes.get_ints(name) or ())
    value = input_of(node, index)
    if value is None:
        return None
    array = constant(value)
    if array is None:
        raise NoSite
    return [int(number) for number in array.reshape(-1)]


def given_axes(node: ir.Node, index: int, rank: int) -> list[int] | None:
    """The axes of a node, counted from the front; None where absent.

    Raises:
        NoSite: they are computed.
    """
    axes = given_ints(node, "axes", index)
    return None if axes is None else [axis % rank for axis in axes]


def permutation(transpose: ir.Node) -> tuple[int, ...]:
    """Which input axis each output axis of a Transpose is.

    Raises:
        NoSite: it reverses the axes of a tensor of unknown rank.
    """
    perm = transpose.attributes.get_ints("perm", None)
    return tuple(perm) if perm else tuple(reversed(range(len(sizes_of(transpose.inputs[0])))))


def cast_type(cast: ir.Node) -> ir.DataType | None:
    """The type a Cast makes, None where it is spelled as text, as before opset 6."""
    to = cast.attributes.get("to")
    is_number = to is not None and to.type == ir.AttributeType.INT
    return ir.DataType(to.as_int()) if to is not None and is_number else None


def reshaped(node: ir.Node) -> Sizes:
    """The sizes of what a node of ``RESHAPING`` makes; a name that starts with "!" is not known.

    Raises:
        NoSite: not even the rank is known.
    """
    return reshape(node, sizes_of(node.inputs[0]))


def reshape(node: ir.Node, sizes: Sizes) -> Sizes:
    """As ``reshaped``, for an input of other sizes than the node's own."""
    if node.op_type == "Reshape":
        target = given_ints(node, "shape", 1)
        assert target is not None
        return resolve(target, sizes, keeps_zero=bool(node.attributes.get_int("allowzero", 0)))
    if node.op_type == "Flatten":
        # An axis equal to the rank is allowed, and means what it says.
        axis = node.attributes.get_int("axis", 1)
        axis += len(sizes) if axis < 0 else 0
        return product(sizes[:axis], "!0"), product(sizes[axis:], "!1")
    if node.op_type == "Unsqueeze":
        added = given_ints(node, "axes", 1) or []
        rank = len(sizes) + len(added)
        axes = {axis % rank for axis in added}
        rest = iter(sizes)
        return tuple(1 if axis in axes else next(rest) for axis in range(rank))
    removed = given_axes(node, 1, len(sizes))
    if removed is None:
        if not all(isinstance(size, int) for size in sizes):
            raise NoSite  # A size that is not known may be one.
        removed = [axis for axis, size in enumerate(sizes) if size == 1]
    return tuple(size for axis, size in enumerate(sizes) if axis not in removed)


def resolve(target: Sequence[Size], sizes: Sizes, keeps_zero: bool = False) -> Sizes:
    """The sizes that a Reshape to ``target`` makes of ``sizes``.

    >>> resolve([0, -1, 4], ("N", 2, 6))
    ('N', 3, 4)
    >>> resolve([-1, 12], ("N", 2, 6))
    ('N', 12)
    >>> resolve([-1, 24], ("N", 2, 6))
    ('!0', 24)
    """
    found: list[Size] = []
    for axis, size in enumerate(target):
        if size == 0 and not keeps_zero:
            if axis >= len(sizes):
                raise NoSite
            found.append(sizes[axis])
        else:
            found.append(size)
    if -1 in found:
        hole = found.index(-1)
        rest = [size for axis, size in enumerate(found) if axis != hole]
        found[hole] = _quotient(sizes, rest, f"!{hole}")
    return tuple(found)


def _quotient(sizes: Sequence[Size], divisors: Sequence[Size], unknown: str) -> Size:
    """The product of ``sizes`` divided by that of ``divisors``."""
    names = collections.Counter(size for size in sizes if isinstance(size, str))
    names.subtract(size for size in divisors if isinstance(size, str))
    number = math.prod(size for size in sizes if isinstance(size, int))
    divisor = math.prod(size for size in divisors if isinstance(size, int))
    left = [name for name, count in names.items() for _ in range(count)]
    if not number or not divisor or number % divisor or min(names.values(), default=0) < 0:
        return unknown
    if not left:
        return number // divisor
    return left[0] if len(left) == 1 and number == divisor else unknown


def product(sizes: Sequence[Size], unknown: str) -> Size:
    """The product of sizes: a number, the only name among ones, or ``unknown``."""
    return _quotient(sizes, (), unknown)


@dataclasses.dataclass(frozen=True)
class Target:
    """The second input of a Reshape.

    Attributes:
        shape: sizes, 0 for a size that is kept, at most one -1 for what is left.
        divides: the -1 stands beside sizes that are not known: if one of them were 0, what is
            left could not be computed.
    """

    shape: tuple[int, ...]
    divides: bool


def target_of(wanted: Sizes, sizes: Sizes) -> Target:
    """How to reshape a tensor of ``sizes`` to ``wanted``, which has as many elements.

    >>> target_of(("N", 12, "!0"), ("N", 3, 4, "H"))
    Target(shape=(0, 12, -1), divides=True)

    Raises:
        Refused: two sizes are neither known nor kept.
    """
    shape = tuple(
        size if isinstance(size, int) else 0 if sizes[axis : axis + 1] == (size,) else -1
        for axis, size in enumerate(wanted)
    )
    if shape.count(-1) > 1 or 0 in wanted:
        raise Refused("two sizes of the result are neither known nor kept")
    return Target(shape, -1 in shape and 0 in shape)


def with_ints(
    op: Builder, op_type: str, x: ir.Value, since: int, **parameters: Sequence[int]
) -> ir.Value:
    """Build a node whose integers are attributes before the opset ``since``, and inputs from it."""
    if op.opset < since:
        return op.node(op_type, [x], parameters).outputs[0]
    given = [op.initializer(np.array(ints, np.int64), name) for name, ints in parameters.items()]
    return op.node(op_type, [x, *given], {}).outputs[0]
