"""Fold a crop into the pads of the convolution before it.

    crop(ConvTranspose(x, pads=q), c)  =  ConvTranspose(x, pads=q + c)
    crop(Conv(x, pads=q), c)           =  Conv(x, pads=q - c * stride)

with c pixels taken from the beginnings and ends of the spatial axes, by a Slice or a Pad with
negative pads: the pixels are then never computed. Refused when batch or channels are cropped, for
other steps than 1, where something is padded, for ``auto_pad`` SAME and ``output_shape``, where the
pads of a Conv would become negative, where nothing might be left, and where the end of a Slice is a
position in an output whose size is unknown.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.layout import INT32_MAX, given_axes, given_ints
from advconv_onnx.rewriter.padding import Padding
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import producer

Plan = tuple[Convolution, list[int]]


class FoldCrop(Rule[Plan]):
    """Slice(ConvTranspose(x)) -> ConvTranspose(x)."""

    name = "fold_crop"
    roots = frozenset(("Slice", "Pad"))
    needs_shapes = True

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        node = producer(root.inputs[0], "ConvTranspose", "Conv", graph=root.graph)
        convolution = Convolution.of(node)
        rank = convolution.rank
        crop = _sliced(root, rank) if root.op_type == "Slice" else -Padding.of(root, rank).amounts
        if not crop.any():
            raise NoSite
        if (crop < 0).any():
            raise Refused("the Pad also adds pixels")
        if crop[:, :2].any():
            raise Refused("batch or channels are cropped")
        cropped = crop[:, 2:]
        change = cropped if convolution.transposed else -cropped * convolution.strides
        pads = convolution.pads_changed(change)
        _check_something_left(convolution, node.outputs[0], cropped.sum(axis=0))
        return Site((node, root), (convolution, pads))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        convolution, pads = plan
        weight, bias = convolution.weight, convolution.bias
        return convolution.rebuild(op, convolution.x, weight, bias, pads=pads, auto_pad="NOTSET")


def _check_something_left(
    convolution: Convolution, y: ir.Value, cropped: NDArray[np.int64]
) -> None:
    """Refuse where a Slice may return nothing, which no convolution does."""
    shape = [None] * convolution.rank if y.shape is None else list(y.shape)
    for size, smallest, crop in zip(shape[2:], _smallest(convolution), cropped, strict=True):
        least = size if isinstance(size, int) else smallest
        if least <= crop:
            raise Refused(f"of {least} pixels, {crop} are cropped: nothing might be left")


def _smallest(convolution: Convolution) -> list[int]:
    """The smallest output that there may be along each axis, of an input of one pixel."""
    if not convolution.transposed:
        return [1] * len(convolution.kernel)
    extents = np.array(convolution.dilations) * (np.array(convolution.kernel) - 1) + 1
    pads = np.array(convolution.pads).reshape(2, -1).sum(axis=0)
    return list(np.maximum(extents + convolution.output_padding - pads, 1).tolist())


def _sliced(node: ir.Node, rank: int) -> NDArray[np.int64]:
    """Elements that a Slice takes from the (beginning, end) of each axis, shape (2, rank)."""
    starts, ends = given_ints(node, "starts", 1), given_ints(node, "ends", 2)
    steps, axes = given_ints(node, "steps", 4), given_axes(node, 3, rank)
    if starts is None or ends is None:
        raise NoSite
    if steps is not None and any(step != 1 for step in steps):
        raise Refused(f"the Slice has steps {steps}")
    x = node.inputs[0]
    shape = [None] * rank if x is None or x.shape is None else list(x.shape)
    crop = np.zeros((2, rank), np.int64)
    for axis, start, end in zip(axes or range(len(starts)), starts, ends, strict=True):
        dim = shape[axis]
        size = dim if isinstance(dim, int) else None
        crop[:, axis] = _from_beginning(start, size), _from_end(end, size)
    return crop


def _from_beginning(start: int, size: int | None) -> int:
    if start >= 0:
        return start
    if size is None:
        raise Refused("a start counts from an unknown end")
    return max(start + size, 0)


def _from_end(end: int, size: int | None) -> int:
    if end < 0:
        return -end
    if end >= INT32_MAX:
        return 0
    if size is None:
        raise Refused("an end is a position in an axis of unknown size")
    return max(size - end, 0)


RULE = FoldCrop()


def _model(
    nodes: str, constants: str, x: str = "float[N, 4, H, W] x", out: int = 2, opset: int = 18
) -> str:
    weight = "float[4, 2, 3, 2] w = {" + ", ".join(str(n % 7 - 3 or 5) for n in range(48)) + "}"
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g ({x}) => (float[N, {out}, P, Q] z) <{weight}, {constants}> {{ {nodes} }}"""


_TRANSPOSE = "y = ConvTranspose <strides = [2, 1], pads = [0, 1, 0, 0], output_padding = [1, 0]>"
_SLICE = "z = Slice(y, s, e, a)"
_ENDS = "int64[2] s = {1, 0}, int64[2] e = {-1, 9223372036854775807}, int64[2] a = {-2, 3}"

EXAMPLES = (
    _model(f"{_TRANSPOSE} (x, w) {_SLICE}", _ENDS),
    _model(
        f"{_TRANSPOSE} (x, w, b) {_SLICE}",
        "float[2] b = {1, 2}, int64[1] s = {0}, int64[1] e = {-2}, int64[1] a = {2}",
    ),
    # An end counted from the beginning of a known size.
    _model(
        f"{_TRANSPOSE} (x, w) {_SLICE}",
        "int64[2] s = {1, -6}, int64[2] e = {11, 5}, int64[2] a = {2, 3}",
        x="float[N, 4, 5, 6] x",
    ),
    _model(
        f"{_TRANSPOSE} (x, w) z = Pad(y, p)",
        "int64[8] p = {0, 0, -1, 0, 0, 0, 0, -2}, float u={0}",
        x="float[N, 4, 5, 6] x",
    ),
    _model(
        f"{_TRANSPOSE} (x, w) z = Pad <pads = [0, 0, -1, 0, 0, 0, 0, -2]> (y)",
        "float u = {0}",
        x="float[N, 4, 5, 6] x",
        opset=9,
    ),
    _model(
        f"{_TRANSPOSE} (x, w) z = Slice <axes = [2], starts = [1], ends = [-1]> (y)",
        "float u = {0}",
        opset=9,
    ),
    _model(
        "y = Conv <strides = [1, 2], pads = [1, 2, 2, 2], group = 2> (x, w) z = Slice(y, s, e, a)",
        "int64[2] s = {0, 1}, int64[2] e = {-2, -1}, int64[2] a = {2, 3}",
        x="float[N, 4, 7, 9] x",
        out=4,
    ),
    """<ir_version: 7, opset_import: ["" : 11]> g (float[N, 2, L] x) => (float[N, 4, P] z)
    <float[2, 2, 3] w = {1, -2, 3, 4, 5, -6, 7, 8, 9, 1, 3, 2}, int64[1] s = {2}, int64[1] e = {-1},
     int64[1] a = {2}> {
        y = ConvTranspose <group = 2, dilations = [2], strides = [3]> (x, w)
        z = Slice(y, s, e, a)
    }""",
)

NEAR_MISSES = (
    # Nothing may be left, which a Slice says with an empty tensor and a convolution with an error.
    (
        _model(
            f"{_TRANSPOSE} (x, w) {_SLICE}",
            "int64[1] s = {12}, int64[1] e = {100}, int64[1] a = {2}",
            x="float[N, 4, 5, 6] x",
        ),
        "nothing might be left",
    ),
    (
        _model(
            "y = Conv <pads = [1, 2, 2, 2], group = 2> (x, w) z = Slice(y, s, e, a)", _ENDS, out=4
        ),
        "nothing might be left",
    ),
    (
        _model(
            f"{_TRANSPOSE} (x, w) {_SLICE}",
            "int64[1] s = {1}, int64[1] e = {9}, int64[1] a = {2}",
        ),
        "unknown size",
    ),
    (
        _model(
            f"{_TRANSPOSE} (x, w) {_SLICE}",
            "int64[1] s = {-3}, int64[1] e = {-1}, int64[1] a = {2}",
        ),
        "unknown end",
    ),
    (
        _model(
            f"{_TRANSPOSE} (x, w) {_SLICE}",
            "int64[1] s = {1}, int64[1] e = {2}, int64[1] a = {1}",
            out=1,
        ),
        "channels",
    ),
    (
        _model(f"{_TRANSPOSE} (x, w) z = Slice(y, s, e, a, t)", f"{_ENDS}, int64[2] t = {{2, 1}}"),
        "steps",
    ),
    (
        _model(
            f"{_TRANSPOSE} (x, w) z = Pad(y, p)",
            "int64[8] p = {0, 0, -1, 0, 0, 0, 0, 2}, float u={0}",
        ),
        "also adds",
    ),
    (
        _model(
            "y = Conv <pads = [0, 2, 2, 2], group = 2> (x, w) z = Slice(y, s, e, a)",
            _ENDS,
            out=4,
        ),
        "negative",
    ),
    (
        _model(
            "y = Conv <strides = [2, 1], pads = [1, 0, 1, 0], group = 2> (x, w) "
            "z = Slice(y, s, e, a)",
            _ENDS,
            out=4,
        ),
        "negative",
    ),
    (
        _model(f'y = ConvTranspose <auto_pad = "SAME_UPPER"> (x, w) {_SLICE}', _ENDS),
        "auto_pad",
    ),
    (
        _model(f"y = ConvTranspose <output_shape = [9, 9]> (x, w) {_SLICE}", _ENDS),
        "output_shape",
    ),
    (_model(f"{_TRANSPOSE} (x, w) t = Abs(s) z = Slice(y, t, e, a)", _ENDS), ""),
    (
        _model(f"{_TRANSPOSE} (x, w) v = {_SLICE[4:]} z = Concat <axis = 2> (v, y)", _ENDS),
        "also read by",
    ),
)
