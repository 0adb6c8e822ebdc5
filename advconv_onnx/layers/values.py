"""What layers ask of the values and shapes they are given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx_ir as ir

from advconv_onnx.errors import InputError
from advconv_onnx.model import format_shape
from advconv_onnx.records import Shape


def channels_of(x: ir.Value) -> int:
    """Channels of (N, C, *spatial).

    Raises:
        InputError: the shape or the channels are unknown, or there are none.
    """
    channels = _known(x)[1]
    if not isinstance(channels, int) or channels < 1:
        raise InputError(
            f"the channels of '{x.name}' ({format_shape(_known(x))}) are unknown or none; a layer "
            "needs them: fix the input's second dimension"
        )
    return channels


def size_of(x: ir.Value) -> tuple[Any, ...]:
    """Spatial size of (N, C, *spatial): ints, and expressions where it is symbolic.

    Raises:
        InputError: the shape is unknown, or there is no spatial axis, or more than three.
    """
    shape = _known(x)
    if not 3 <= len(shape) <= 5:
        raise InputError(
            f"'{x.name}' has shape {format_shape(shape)}; layers take batch, channels and one to "
            "three spatial axes"
        )
    return shape.dims[2:]


def batch_of(x: ir.Value) -> int | ir.SymbolicDim:
    """Batch of (N, C, *spatial)."""
    return _known(x)[0]


def _known(x: ir.Value) -> ir.Shape:
    if x.shape is None or len(x.shape) < 2:
        raise InputError(f"the shape of '{x.name}' is unknown or has no channels; give one")
    return x.shape


def symbolic(shape: Shape) -> tuple[Any, ...]:
    """A shape in whose dimensions one can calculate, names included."""
    return tuple(dim if isinstance(dim, int) else ir.SymbolicDim(dim) for dim in shape)


def plain(shape: Iterable[Any]) -> Shape:
    """The opposite of ``symbolic``: ints, names of expressions, and None."""
    return tuple(dim.value if isinstance(dim, ir.SymbolicDim) else dim for dim in shape)
