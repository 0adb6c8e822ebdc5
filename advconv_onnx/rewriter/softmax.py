"""A Softmax over one axis of many, built so that ONNX Runtime has little to transpose."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.layout import Sizes

ONE_AXIS = 13
"""The opset since which Softmax runs over one axis; before, over all from that one on."""


def has_axes_to_merge(sizes: Sizes, axis: int) -> bool:
    """Whether at least two axes are behind ``axis``, not all of them of size 1."""
    behind = sizes[axis + 1 :]
    return len(behind) > 1 and any(size != 1 for size in behind)


def softmax_before_merged_axes(op: Builder, op_type: str, x: ir.Value, axis: int) -> ir.Value:
    """A Softmax or LogSoftmax over ``axis``, with all axes behind it merged into one."""
    y = op.Reshape(x, op.initializer(np.array([0] * (axis + 1) + [-1]), "merged"))
    if op.opset >= ONE_AXIS:
        y = op.node(op_type, [y], {"axis": axis}).outputs[0]
    else:
        swap = [*range(axis), axis + 1, axis]
        y = op.node(op_type, [op.Transpose(y, perm=swap)], {"axis": axis + 1}).outputs[0]
        y = op.Transpose(y, perm=swap)
    # Where the shape is fixed, ONNX Runtime computes it when the model is loaded.
    return op.Reshape(y, op.Shape(x))
