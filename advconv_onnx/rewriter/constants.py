"""Reading constants of a graph, with the hazards of broadcasting in mind."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.rule import Refused


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer; None for anything that is computed or given at run time."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def required(value: ir.Value | None, role: str) -> np.ndarray:
    """The array of a constant.

    Raises:
        Refused: the value is not constant; the message calls it ``role``.
    """
    array = constant(value)
    if array is None:
        raise Refused(f"the {role} is not constant")
    return array


def scalar(value: ir.Value | None, rank: int | None) -> float | None:
    """A constant of one element that cannot widen the tensor of ``rank`` it is combined with."""
    array = constant(value)
    if array is None or array.size != 1 or array.ndim > max(rank or 0, 1):
        return None
    return float(array.reshape(()))


def per_channel(array: np.ndarray, rank: int, channels: int) -> np.ndarray:
    """Read a constant that is combined with a tensor (N, C, ...) as one value per channel.

    Args:
        array: the constant, broadcast by ONNX's rules (aligned at the last dimension).
        rank: rank of the tensor.
        channels: C, the size of its dimension 1.

    Returns:
        Shape (C,), float64.

    Raises:
        Refused: the constant varies along another dimension than the channels, or would widen the
            tensor. A constant of shape (W,) is such a case even when W happens to equal C.
    """
    shape = (1,) * (rank - array.ndim) + array.shape
    if len(shape) > rank:
        raise Refused(f"the constant has rank {array.ndim}, more than the tensor's {rank}")
    if any(size != 1 for axis, size in enumerate(shape) if axis != 1) or shape[1] not in (
        1,
        channels,
    ):
        raise Refused(
            f"the constant of shape {list(array.shape)} does not hold one value per channel "
            f"({channels})"
        )
    return np.broadcast_to(array.reshape(-1).astype(np.float64), (channels,))


def rank_of(value: ir.Value) -> int | None:
    """Rank of a value, None when unknown."""
    return None if value.shape is None else len(value.shape)
