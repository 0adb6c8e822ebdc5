"""What a Resize does, read by what it computes rather than by how it is spelled."""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx.algebra import axis as algebra
from advconv_onnx.geometry import resize_scales
from advconv_onnx.rewriter.layer_site import operator_of
from advconv_onnx.rewriter.rule import NoSite, Refused

_SAMPLES = (3, 8)
"""Sizes at which a Resize is compared with the one it may equal: its pattern has a period of 1."""


def nearest_scales(resize: ir.Node) -> tuple[int, ...]:
    """The scale of each spatial axis of a Resize that repeats every pixel that many times.

    Raises:
        NoSite: it enlarges nothing.
        Refused: it does something else.
    """
    scales = resize_scales(resize)
    if not scales or any(scale is None or scale.denominator != 1 or scale < 1 for scale in scales):
        raise Refused("the scales of the Resize are not all known and integer")
    known = tuple(int(scale) for scale in scales[2:] if scale is not None)
    if all(scale == 1 for scale in known):
        raise NoSite
    for axis, scale in enumerate(known):
        for size in _SAMPLES:
            if operator_of((resize,), axis, size) != algebra.resize(size, scale=scale):
                raise Refused("the Resize does not repeat pixels: its mode is no plain nearest")
    return known
