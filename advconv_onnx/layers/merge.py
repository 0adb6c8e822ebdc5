"""Where branches meet: sums of residual branches, concatenations of skips."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from advconv_onnx.errors import InputError
from advconv_onnx.layers.builder import Builder
from advconv_onnx.layers.values import channels_of
from advconv_onnx.model import format_shape


def add(b: Builder, x: ir.Value, y: ir.Value, *, name: str | None = None) -> ir.Value:
    """Add two values of one shape.

    Raises:
        InputError: the shapes differ.
    """
    with b.layer("add", name):
        return b.node("Add", [x, y], _common_shape([x, y], but=None))


def concat(b: Builder, values: Sequence[ir.Value], *, name: str | None = None) -> ir.Value:
    """Put the channels of several values of the same batch and size behind each other.

    Raises:
        InputError: batches or sizes differ.
    """
    with b.layer("concat", name):
        shape = _common_shape(values, but=1)
        shape[1] = sum(map(channels_of, values))
        return b.node("Concat", values, shape, axis=1)


def _common_shape(values: Sequence[ir.Value], but: int | None) -> list[int | ir.SymbolicDim]:
    """The shape of the first; fixed dimensions of the others must be equal, save axis ``but``."""
    shapes = [value.shape for value in values if value.shape is not None]
    sizes = [{dim for dim in dims if isinstance(dim, int)} for dims in zip(*shapes, strict=False)]
    differ = any(len(found) > 1 for axis, found in enumerate(sizes) if axis != but)
    if differ or len({len(shape) for shape in shapes}) != 1:
        found = " and ".join(format_shape(shape) for shape in shapes)
        raise InputError(f"shapes {found} do not meet; make their batches and sizes equal")
    return list(shapes[0])
