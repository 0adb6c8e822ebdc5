"""What a Resize does, read by what it computes rather than by how it is spelled."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import onnx_ir as ir

from advconv_onnx.algebra import axis as algebra
from advconv_onnx.errors import InputError
from advconv_onnx.geometry import resize_scales
from advconv_onnx.rewriter.layer_site import operator_of
from advconv_onnx.rewriter.rule import NoSite, Refused
from advconv_onnx.rewriter.walk import input_of

_SAMPLES = (3, 8)
"""Sizes at which a Resize is compared with the one it may equal: its pattern has a period of 1."""


def spatial_scales(resize: ir.Node, axes: int) -> tuple[Fraction, ...]:
    """The scale of each spatial axis.

    Raises:
        Refused: one is not known, or the channels are given a size.
    """
    if input_of(resize, 3) is not None:
        raise Refused("the Resize is given sizes, the channels among them")
    try:
        scales = resize_scales(resize)[2:]
    except InputError as error:
        raise Refused(str(error)) from error
    known = tuple(scale for scale in scales if scale is not None)
    if len(known) < axes or not known:
        raise Refused("the scales of the Resize are not all known")
    return known


def check_sizes(
    resize: ir.Node, scales: Sequence[Fraction], sizes: Sequence[int | None], longest_period: int
) -> None:
    """Refuse a Resize whose weights are not known for all sizes that an axis may have.

    Args:
        resize: the node.
        scales: of its spatial axes.
        sizes: pixels along each of them, None where dynamic.
        longest_period: output pixels after which the weights of a dynamic axis must repeat; more
            input pixels than that change nothing.

    Raises:
        Refused: a dynamic axis does not, or the Resize is one the algebra does not read.
    """
    aligned = resize.attributes.get_string("coordinate_transformation_mode", "") == "align_corners"
    for axis, (scale, size) in enumerate(zip(scales, sizes, strict=True)):
        if size is None and (aligned or scale.denominator > longest_period):
            raise Refused("what the Resize weighs depends on a size that is dynamic")
        operator_of((resize,), axis, size or scale.denominator)


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
