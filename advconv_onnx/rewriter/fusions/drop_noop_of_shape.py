"""Drop an operator that changes nothing because of the shape its input is known to have.

    Reshape, Flatten and Squeeze to the shape it has; a Transpose that only swaps dimensions of size
    1; an Expand to sizes it has; a Slice, Gather or Resize of all there is; global pools of one
    pixel; Reduce over axes of size 1 that are kept                                      =  identity

Sizes may be dynamic where their equality follows from the operator: Reshape by [-1, 4] of (N, 4),
or by [0, -1] of (N, M). The others are refused silently: their names say nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.dropping import DropRule
from advconv_onnx.rewriter.layout import (
    INT32_MAX,
    given_axes,
    given_ints,
    permutation,
    reshaped,
    sizes_of,
)
from advconv_onnx.rewriter.walk import input_of


def _keeps_sizes(node: ir.Node) -> bool:
    return reshaped(node) == sizes_of(node.inputs[0])


def _swaps_ones(node: ir.Node) -> bool:
    sizes = sizes_of(node.inputs[0])
    perm = permutation(node)
    moved = [axis for axis in perm if sizes[axis] != 1]
    return moved == sorted(moved) and tuple(sizes[axis] for axis in perm) == sizes


def _expands_to_its_sizes(node: ir.Node) -> bool:
    sizes, target = sizes_of(node.inputs[0]), given_ints(node, "shape", 1) or []
    if len(target) > len(sizes):
        return False
    own = sizes[len(sizes) - len(target) :]
    return all(wanted in (1, size) for wanted, size in zip(target, own, strict=True))


def _slices_all(node: ir.Node) -> bool:
    sizes = sizes_of(node.inputs[0])
    starts, ends = given_ints(node, "starts", 1) or [], given_ints(node, "ends", 2) or []
    axes = given_axes(node, 3, len(sizes)) or list(range(len(starts)))
    if any(step != 1 for step in given_ints(node, "steps", 4) or ()):
        return False
    for axis, start, end in zip(axes, starts, ends, strict=True):
        size = sizes[axis]
        from_first = start == 0 or (isinstance(size, int) and start <= -size)
        to_last = end >= (size if isinstance(size, int) else INT32_MAX)
        if not (from_first and to_last):
            return False
    return True


def _gathers_all(node: ir.Node) -> bool:
    sizes, indices = sizes_of(node.inputs[0]), constant(node.inputs[1])
    if indices is None or indices.ndim != 1:
        return False
    size = sizes[node.attributes.get_int("axis", 0)]
    if not isinstance(size, int) or size == 0:
        return False
    return [int(index) % size for index in indices] == list(range(size))


def _resizes_to_its_sizes(node: ir.Node) -> bool:
    if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        return False
    mode = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    wanted = constant(input_of(node, 3))
    if wanted is None or mode in ("tf_half_pixel_for_nn", "tf_crop_and_resize"):
        return False
    sizes = sizes_of(node.inputs[0])
    axes = node.attributes.get_ints("axes", range(len(sizes)))
    return [sizes[axis] for axis in axes] == list(wanted)


def _pools_one_pixel(node: ir.Node) -> bool:
    sizes = sizes_of(node.inputs[0])
    return len(sizes) > 2 and all(size == 1 for size in sizes[2:])


def _reduces_ones(node: ir.Node) -> bool:
    sizes = sizes_of(node.inputs[0])
    axes = given_axes(node, 1, len(sizes))
    if not axes:  # over all of them, or over none
        axes = list(range(len(sizes)))
    return bool(node.attributes.get_int("keepdims", 1)) and all(sizes[axis] == 1 for axis in axes)


_CHANGES_NOTHING: dict[str, Callable[[ir.Node], bool]] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze"), _keeps_sizes),
    "Transpose": _swaps_ones,
    "Expand": _expands_to_its_sizes,
    "Slice": _slices_all,
    "Gather": _gathers_all,
    "Resize": _resizes_to_its_sizes,
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _pools_one_pixel),
    **dict.fromkeys(
        ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"), _reduces_ones
    ),
}


class DropNoopOfShape(DropRule):
    """Reshape, Transpose, Expand, Slice ... -> nothing."""

    name = "drop_noop_of_shape"
    roots = frozenset(_CHANGES_NOTHING)
    changes_nothing = _CHANGES_NOTHING
    needs_shapes = True


RULE = DropNoopOfShape()


def _model(
    nodes: str, x: str, constants: str = "float u = {0}", opset: int = 18, out: str = "float[] z"
) -> str:
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g (float[{x}] x) => ({out}) <{constants}> {{ {nodes} }}"""


EXAMPLES = (
    _model("z = Reshape(x, s)", "2, 3, 4", "int64[3] s = {2, 3, 4}"),
    _model("z = Reshape(x, s)", "N, 3, 4", "int64[3] s = {-1, 3, 4}"),
    _model("z = Reshape(x, s)", "N, C, H", "int64[3] s = {0, -1, 0}"),
    _model("z = Reshape(x, s)", "N, 3, H", "int64[3] s = {0, 0, 0}"),
    _model("z = Reshape <allowzero = 1> (x, s)", "N, 3, 4", "int64[3] s = {-1, 3, 4}"),
    _model("z = Flatten(x)", "N, C"),
    _model("z = Flatten <axis = -2> (x)", "1, M"),
    _model("z = Flatten <axis = 2> (x)", "M, 1"),
    _model("z = Squeeze(x)", "2, 3", opset=11),
    _model("z = Transpose <perm = [0, 2, 1, 3]> (x)", "N, 1, 1, W"),
    _model("z = Transpose(x)", "1, 1"),
    _model("z = Expand(x, s)", "N, 3, 4", "int64[2] s = {3, 1}"),
    _model(
        "z = Slice(x, b, e)", "N, 3, 4", "int64[3] b = {0, 0, -9}, int64[3] e = {2147483647, 3, 9}"
    ),
    _model("z = Slice <starts = [0], ends = [4], axes = [-1]> (x)", "N, 3, 4", opset=9),
    _model("z = Gather <axis = -2> (x, i)", "N, 3, 4", "int64[3] i = {0, 1, -1}"),
    _model('z = Resize <mode = "cubic"> (x, , , s)', "1, 2, 5, 7", "int64[4] s = {1, 2, 5, 7}"),
    _model("z = Resize <axes = [2, 3]> (x, , , s)", "N, 2, 5, 7", "int64[2] s = {5, 7}"),
    _model("z = GlobalAveragePool(x)", "N, 4, 1, 1"),
    _model("z = ReduceMean(x, a)", "N, 1, 4", "int64[1] a = {1}"),
    _model("z = ReduceMax <axes = [-1]> (x)", "N, 4, 1", opset=11),
    _model("z = ReduceSum(x)", "1, 1"),
)

NEAR_MISSES = (
    (_model("z = Reshape(x, s)", "2, 3, 4", "int64[3] s = {2, 4, 3}"), ""),
    (_model("z = Reshape(x, s)", "N, 3, 4", "int64[3] s = {-1, 4, 3}"), ""),
    (_model("z = Reshape(x, s)", "N, M, 4", "int64[3] s = {1, -1, 4}"), ""),
    (_model("z = Reshape(x, s)", "N, C, H", "int64[2] s = {0, -1}"), ""),
    (_model("z = Reshape(x, s)", "N, C, 12", "int64[3] s = {0, -1, 6}"), ""),
    (_model("s = Shape(x) z = Reshape(x, s)", "N, C, H"), ""),
    (_model("z = Flatten(x)", "N, C, 1"), ""),
    (_model("z = Flatten <axis = 0> (x)", "N, C"), ""),
    (_model("z = Squeeze(x)", "N, 3", opset=11), ""),
    (_model("z = Squeeze(x)", "1, 3", opset=11), ""),
    (_model("z = Transpose <perm = [0, 2, 1]> (x)", "N, 1, W"), ""),
    (_model("z = Transpose <perm = [0, 2, 1]> (x)", "N, 3, 3"), ""),
    (_model("z = Expand(x, s)", "N, 1, 4", "int64[2] s = {3, 1}"), ""),
    (_model("z = Expand(x, s)", "3, 4", "int64[3] s = {1, 3, 4}"), ""),
    (
        _model("z = Slice(x, b, e)", "N, 3, 4", "int64[3] b = {0, 0, 0}, int64[3] e = {9, 3, -1}"),
        "",
    ),
    (_model("z = Gather <axis = 1> (x, i)", "N, 3, 4", "int64[3] i = {0, 2, 1}"), ""),
    (_model("z = Gather <axis = 1> (x, i)", "N, 1, 4", "int64 i = {0}"), ""),
    (_model("z = Resize(x, , , s)", "N, 2, 5, 7", "int64[4] s = {1, 2, 5, 7}"), ""),
    (_model("z = GlobalAveragePool(x)", "N, 4, 1, W"), ""),
    (_model("z = ReduceMean <keepdims = 0> (x, a)", "N, 1, 4", "int64[1] a = {1}"), ""),
    (_model("z = ReduceL1 (x, a)", "N, 1, 4", "int64[1] a = {1}"), ""),
    (_model("z = ReduceSum(x)", "1, 2"), ""),
)
