"""Which values ONNX Runtime's CPU provider holds in its blocked layout (NCHWc).

There the channels of an image lie in blocks of 8 (AVX2) or 16 (AVX-512) numbers. A convolution
enters the layout, a grouped one only if each group fills blocks; some operators stay in it, any
other one has its inputs reordered back. The rules here were probed on ONNX Runtime 1.31; a wrong
answer costs time, never correctness.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.walk import input_of

BLOCK = 8
"""Channels of the smaller blocks."""

WIDEST_BLOCK = 16
"""Channels that fill blocks on every machine."""

QUARTER = 4
"""Channels of a depthwise convolution, and inputs of a dense one, are a multiple of this."""

BLOCKED_RANK = 4
"""Only images of two axes are laid out in blocks."""

_UNARY = frozenset(
    ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "HardSigmoid", "HardSwish", "Gelu")
)
_BINARY = frozenset(("Add", "Mul", "Sum"))
_POOLS = frozenset(("MaxPool", "AveragePool"))

_FAR = 12
"""Operators looked back at: a residual network of any depth is a chain of blocked values."""


def is_blocked(value: ir.Value | None, look_back: int = _FAR) -> bool:
    """Whether a value is in the blocked layout when ONNX Runtime computes it."""
    node = None if value is None else value.producer()
    if node is None or node.domain:
        return False
    if node.op_type == "Conv":
        return _is_blocked_convolution(node)
    if look_back == 0:
        return True
    if node.op_type in _UNARY or node.op_type == "BatchNormalization":
        return is_blocked(node.inputs[0], look_back - 1)
    if node.op_type in _BINARY:
        # Half as far for both: a chain of sums must not be walked in every combination.
        return all(is_blocked(x, (look_back - 1) // len(node.inputs)) for x in node.inputs)
    if node.op_type in _POOLS:
        return has_full_blocks(node.inputs[0]) and is_blocked(node.inputs[0], look_back - 1)
    if node.op_type == "Concat" and node.attributes.get_int("axis", 1) == 1:
        far = (look_back - 1) // len(node.inputs)
        return all(has_full_blocks(x) and is_blocked(x, far) for x in node.inputs)
    return False


def has_full_blocks(value: ir.Value | None) -> bool:
    """Whether the channels (N, C, H, W) are known to fill blocks; pools and Concat demand it."""
    if value is None or value.shape is None or len(value.shape) != BLOCKED_RANK:
        return False
    channels = value.shape[1]
    return isinstance(channels, int) and channels % BLOCK == 0


def fills_blocks(inputs: int, outputs: int) -> bool:
    """Whether groups of so many input and output channels are laid out in blocks.

    A depthwise convolution is, whatever its channels.
    """
    return inputs == outputs == 1 or (inputs % WIDEST_BLOCK == 0 and outputs % WIDEST_BLOCK == 0)


def _is_blocked_convolution(conv: ir.Node) -> bool:
    weight, bias = constant(conv.inputs[1]), input_of(conv, 2)
    if weight is None or weight.ndim != BLOCKED_RANK or weight.dtype != np.float32:
        return False
    if bias is not None and constant(bias) is None:
        return False
    group = conv.attributes.get_int("group", 1)
    outputs, in_group = int(weight.shape[0]), int(weight.shape[1])
    if group == 1:
        return in_group < BLOCK or in_group % QUARTER == 0
    if in_group == 1 and outputs == group:
        return group % QUARTER == 0
    return in_group % BLOCK == 0 and (outputs // group) % BLOCK == 0
