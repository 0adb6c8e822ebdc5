"""Operators of torch that its exporter computes step by step, as the single ones that ONNX has.

torch 2.13 computes all sizes of an Upsample from those of its input, decomposes modes that it has
no translation for, and gathers the windows of an Unfold by index. Here a convolution picks them
out, which spreads an infinite value or NaN over the places of a window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import INT64, opset18

_aten = torch.ops.aten

op: Any = opset18


def translations() -> Mapping[Any, Callable[..., Any]]:
    """ONNX for overloads of torch, as ``custom_translation_table`` of ``torch.onnx.export``."""
    return {
        _aten.upsample_nearest1d.vec: _nearest,
        _aten.upsample_nearest2d.vec: _nearest,
        _aten.upsample_nearest3d.vec: _nearest,
        _aten._upsample_nearest_exact1d.vec: _nearest_exact,
        _aten._upsample_nearest_exact2d.vec: _nearest_exact,
        _aten._upsample_nearest_exact3d.vec: _nearest_exact,
        _aten.upsample_linear1d.vec: _linear,
        _aten.upsample_bilinear2d.vec: _linear,
        _aten.upsample_trilinear3d.vec: _linear,
        _aten.upsample_bicubic2d.vec: _cubic,
        _aten._upsample_bilinear2d_aa.vec: _linear_antialiased,
        _aten._upsample_bicubic2d_aa.vec: _cubic_antialiased,
        _aten.pixel_unshuffle.default: _pixel_unshuffle,
        _aten.im2col.default: _unfold,
    }


def _resize(x: Any, sizes: Any, factors: Sequence[float] | None, **attributes: Any) -> Any:
    if factors:
        scales = op.Constant(value_floats=[1.0, 1.0, *factors])
        return op.Resize(x, None, scales, None, **attributes)
    sizes = op.Cast(sizes, to=INT64.dtype)
    if all(isinstance(size, int) for size in x.shape[2:]):
        # Fusions make scales of this, with which ONNX Runtime keeps its blocked layout.
        sizes = op.Concat(op.Shape(x, start=0, end=2), sizes, axis=0)
        return op.Resize(x, None, None, sizes, **attributes)
    return op.Resize(x, None, None, sizes, axes=list(range(2, len(x.shape))), **attributes)


def _nearest(x: Any, output_size: INT64 | None, scale_factors: Sequence[float] | None) -> Any:
    how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return _resize(x, output_size, scale_factors, mode="nearest", **how)


def _nearest_exact(x: Any, output_size: INT64 | None, scale_factors: Sequence[float] | None) -> Any:
    how = {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"}
    return _resize(x, output_size, scale_factors, mode="nearest", **how)


def _coordinates(align_corners: bool) -> str:
    # Not pytorch_half_pixel: torch itself treats a single pixel like others.
    return "align_corners" if align_corners else "half_pixel"


def _linear(
    x: Any,
    output_size: INT64 | None,
    align_corners: bool,
    scale_factors: Sequence[float] | None,
    antialias: int = 0,
) -> Any:
    how = {"coordinate_transformation_mode": _coordinates(align_corners), **_aliasing(antialias)}
    return _resize(x, output_size, scale_factors, mode="linear", **how)


def _cubic(
    x: Any,
    output_size: INT64 | None,
    align_corners: bool,
    scale_factors: Sequence[float] | None,
    antialias: int = 0,
) -> Any:
    how = {"coordinate_transformation_mode": _coordinates(align_corners), **_aliasing(antialias)}
    # Keys' coefficient in torch, with antialiasing that of Pillow.
    coefficient = -0.5 if antialias else -0.75
    return _resize(x, output_size, scale_factors, mode="cubic", cubic_coeff_a=coefficient, **how)


def _aliasing(antialias: int) -> dict[str, int]:
    return {"antialias": antialias, "exclude_outside": antialias}


def _linear_antialiased(
    x: Any, output_size: INT64 | None, align_corners: bool, scale_factors: Sequence[float] | None
) -> Any:
    return _linear(x, output_size, align_corners, scale_factors, antialias=1)


def _cubic_antialiased(
    x: Any, output_size: INT64 | None, align_corners: bool, scale_factors: Sequence[float] | None
) -> Any:
    return _cubic(x, output_size, align_corners, scale_factors, antialias=1)


def _pixel_unshuffle(x: Any, downscale_factor: int) -> Any:
    """SpaceToDepth puts the places of a block before the channels, torch behind them."""
    channels, block = _known_channels(x), downscale_factor**2
    order = np.arange(block * channels).reshape(block, channels).T.reshape(-1)
    y = op.SpaceToDepth(x, blocksize=downscale_factor)
    return op.Gather(y, op.Constant(value_ints=order.tolist()), axis=1) if channels > 1 else y


def _unfold(
    x: Any,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Any:
    """A convolution of each channel with kernels of which each picks out one place."""
    channels, places = _known_channels(x), math.prod(kernel_size)
    picking = np.eye(places, dtype=x.dtype.numpy()).reshape(places, 1, *kernel_size)
    y = op.Conv(
        x,
        op.Constant(value=ir.tensor(np.tile(picking, (channels, 1, 1, 1)))),
        None,
        group=channels,
        dilations=list(dilation),
        pads=[*padding, *padding],
        strides=list(stride),
    )
    return op.Reshape(y, op.Constant(value_ints=[0, 0, -1]))


def _known_channels(x: Any) -> int:
    if len(x.shape) != 4 or not isinstance(x.shape[1], int):
        raise ValueError(f"needs a batch of images with a known number of channels, got {x.shape}")
    return int(x.shape[1])
