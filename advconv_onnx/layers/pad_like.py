"""Zeros at the end of an image, until it is as large as another one that it is to meet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from advconv_onnx.errors import InputError
from advconv_onnx.layers.builder import Builder
from advconv_onnx.layers.values import batch_of, channels_of, size_of
from advconv_onnx.model import format_shape


def pad_like(b: Builder, x: ir.Value, like: ir.Value, *, name: str | None = None) -> ir.Value:
    """Add zeros behind the last pixel of each spatial axis, as many as ``like`` has more.

    Args:
        b: where the layer goes.
        x: (N, C, *size).
        like: (N, C, *larger size), the same batch and channels.
        name: within the scope.

    Returns:
        (N, C, *larger size); ``x`` itself where the sizes are known to be equal. Where they are not
        known, the zeros are counted when the model runs.

    Raises:
        InputError: ``like`` is smaller, or has other channels.
    """
    with b.layer("pad_like", name):
        found, wanted = ((batch_of(v), channels_of(v), *size_of(v)) for v in (x, like))
        missing = list(map(_missing, found, wanted))
        shrinks = any(m is not None and m < 0 for m in missing)
        if len(found) != len(wanted) or any(missing[:2]) or shrinks:
            raise InputError(
                f"'{x.name}' ({format_shape(found)}) cannot become {format_shape(wanted)}; make "
                "batch and channels equal, and no size smaller"
            )
        if None not in missing and not any(missing):
            return x
        return b.node("Pad", [x, _pads(b, x, like, missing)], wanted)


def _pads(b: Builder, x: ir.Value, like: ir.Value, missing: Sequence[int | None]) -> ir.Value:
    """Zeros before each axis, then zeros after each."""
    rank = len(missing)
    begins = [0] * rank
    if None not in missing:
        return b.constant("pads", np.array([*begins, *missing], np.int64))
    shapes = [
        b.node("Shape", [value], (rank,), name=name, dtype=ir.DataType.INT64)
        for value, name in ((like, "wanted"), (x, "found"))
    ]
    ends = b.node("Sub", shapes, (rank,), name="ends")
    none = b.constant("begins", np.array(begins, np.int64))
    return b.node("Concat", [none, ends], (2 * rank,), name="pads", axis=0)


def _missing(found: int | ir.SymbolicDim, wanted: int | ir.SymbolicDim) -> int | None:
    """How much more is wanted; None where that is not known."""
    if isinstance(found, int) and isinstance(wanted, int):
        return wanted - found
    is_known = isinstance(found, ir.SymbolicDim) and found.value is not None
    return 0 if is_known and found == wanted else None
