"""What an operator that only moves elements does to an array, which can hold their positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from advconv_onnx.rewriter.layout import RESHAPING, given_axes, given_ints, permutation, reshape
from advconv_onnx.rewriter.padding import Padding
from advconv_onnx.rewriter.rule import NoSite

MOVING = RESHAPING | {"Transpose", "Pad", "Slice", "SpaceToDepth", "DepthToSpace"}
"""Operators that ``moved`` knows."""

Array = NDArray[Any]


def moved(node: ir.Node, array: Array) -> Array:
    """The result of a node of ``MOVING`` whose first input is ``array``; a Pad adds zeros.

    Raises:
        NoSite: it does not fit the array, or depends on what is computed.
        Refused: a Pad repeats pixels.
    """
    try:
        return _moved(node, array)
    except ValueError:  # A shape that belongs to an array of another size.
        raise NoSite from None


def _moved(node: ir.Node, array: Array) -> Array:
    match node.op_type:
        case "Transpose":
            return array.transpose(permutation(node))
        case "Pad":
            return _padded(node, array)
        case "Slice":
            return _sliced(node, array)
        case "SpaceToDepth":
            return _space_to_depth(node, array)
        case "DepthToSpace":
            return _depth_to_space(node, array)
    sizes = reshape(node, array.shape)
    if not all(isinstance(size, int) for size in sizes):
        raise NoSite
    return array.reshape([int(size) for size in sizes])


def _padded(node: ir.Node, array: Array) -> Array:
    padding = Padding.of(node, array.ndim)
    if padding.value != 0 or (padding.amounts < 0).any():
        raise NoSite
    return np.pad(array, padding.amounts.T)


def _sliced(node: ir.Node, array: Array) -> Array:
    starts, ends = given_ints(node, "starts", 1), given_ints(node, "ends", 2)
    assert starts is not None
    assert ends is not None
    axes = given_axes(node, 3, array.ndim) or range(len(starts))
    steps = given_ints(node, "steps", 4) or [1] * len(starts)
    if min(steps, default=1) < 1:
        raise NoSite  # The end of a reversed slice has no counterpart here.
    parts = [slice(None)] * array.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        parts[axis] = slice(start, end, step)
    return array[tuple(parts)]


def _space_to_depth(node: ir.Node, array: Array) -> Array:
    size = node.attributes.get_int("blocksize")
    n, c, h, w = array.shape
    blocks = array.reshape(n, c, h // size, size, w // size, size)
    return blocks.transpose(0, 3, 5, 1, 2, 4).reshape(n, -1, h // size, w // size)


def _depth_to_space(node: ir.Node, array: Array) -> Array:
    size = node.attributes.get_int("blocksize")
    n, c, h, w = array.shape
    inner = c // size**2
    if node.attributes.get_string("mode", "DCR") == "CRD":
        blocks = array.reshape(n, inner, size, size, h, w).transpose(0, 1, 4, 2, 5, 3)
    else:
        blocks = array.reshape(n, size, size, inner, h, w).transpose(0, 3, 4, 1, 5, 2)
    return blocks.reshape(n, inner, h * size, w * size)
