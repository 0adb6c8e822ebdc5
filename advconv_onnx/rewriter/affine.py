"""Operators that are one multiplication and one addition per channel, read as such."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.constants import constant, per_channel, required
from advconv_onnx.rewriter.rule import NoSite, Refused


@dataclasses.dataclass(frozen=True)
class Affine:
    """``y = scale * x + shift`` per channel: an Add, Sub, Mul, Div or BatchNormalization.

    Attributes:
        scale: (C,), float64.
        shift: (C,), float64.
    """

    scale: np.ndarray
    shift: np.ndarray

    def then(self, after: Affine) -> Affine:
        """This one, followed by another."""
        return Affine(self.scale * after.scale, self.shift * after.scale + after.shift)


def batchnorm(node: ir.Node) -> Affine:
    """Read an inference BatchNormalization.

    Raises:
        Refused: it is in training mode, has further outputs, or its statistics are not constant.
    """
    # Before opset 14, further outputs are what asks for training.
    if node.attributes.get_int("training_mode", 0) or len(node.outputs) > 1:
        raise Refused("the BatchNormalization is in training mode: it uses each batch's statistics")
    if not node.attributes.get_int("spatial", 1):
        raise Refused("the BatchNormalization has one statistic per pixel (spatial=0)")
    roles = ("scale", "bias", "mean", "variance")
    scale, bias, mean, variance = (
        required(value, f"BatchNormalization's {role}").astype(np.float64)
        for value, role in zip(node.inputs[1:5], roles, strict=True)
    )
    epsilon = np.float64(node.attributes.get_float("epsilon", 1e-5))
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = scale / np.sqrt(variance + epsilon)
    if not np.isfinite(factor).all():
        raise Refused("a variance plus epsilon is zero or negative")
    return Affine(factor, bias - mean * factor)


def elementwise(node: ir.Node, tensor: ir.Value, rank: int, channels: int) -> Affine:
    """Read a Neg of ``tensor``, or an Add, Sub, Mul or Div of it and a constant.

    Args:
        node: the operator.
        tensor: its operand that is no constant, shape (N, C, ...).
        rank: rank of ``tensor``.
        channels: its channels C.

    Raises:
        NoSite: the other operand is no floating-point constant.
        Refused: it is not one value per channel, or the operation is not affine.
    """
    if node.op_type == "Neg":
        return Affine(-np.ones(channels), np.zeros(channels))
    first = node.inputs[0] is tensor
    array = constant(node.inputs[1 if first else 0])
    if array is None or not np.issubdtype(array.dtype, np.floating):
        raise NoSite
    return affine_by(node, per_channel(array, rank, channels), first)


def affine_by(node: ir.Node, values: np.ndarray, first: bool) -> Affine:
    """Read an Add, Sub, Mul or Div by constants as a scale and a shift.

    Args:
        node: the operator.
        values: the constants, (C,).
        first: whether the tensor is the first operand.

    Raises:
        Refused: the operation is not affine.
    """
    one, zero = np.ones(values.shape), np.zeros(values.shape)
    match node.op_type, first:
        case "Add", _:
            return Affine(one, values)
        case "Sub", True:
            return Affine(one, -values)
        case "Sub", False:
            return Affine(-one, values)
        case "Mul", _:
            return Affine(values, zero)
        case "Div", True if values.all():
            return Affine(1 / values, zero)
        case "Div", True:
            raise Refused("the divisor has a zero")
    raise Refused(f"{node.op_type} by the tensor is not affine")
