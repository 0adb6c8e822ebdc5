"""Drop an operator that changes nothing, whatever the shape of its input.

    Transpose by the identity, Cast and CastLike to the type it has, Pad by zeros, a Slice from 0 to
    the end in steps of 1, Concat, Sum, Mean, Max and Min of one tensor, Split into one, Resize and
    Upsample by 1, Dropout in inference, pools of one pixel in steps of one, Tile and Expand by 1,
    DepthToSpace and SpaceToDepth of blocks of 1, Reduce over no axes   =  identity

Not those with a second output that is read (the indices of a MaxPool, the mask of a Dropout), and
not a Resize that shifts by half a pixel (tf_half_pixel_for_nn) or crops (tf_crop_and_resize).
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from advconv_onnx.rewriter.constants import constant, rank_of
from advconv_onnx.rewriter.dropping import DropRule
from advconv_onnx.rewriter.layout import INT32_MAX, cast_type, given_ints, permutation
from advconv_onnx.rewriter.rule import Refused
from advconv_onnx.rewriter.walk import input_of


def _permutes_nothing(node: ir.Node) -> bool:
    perm = permutation(node)
    return perm == tuple(range(len(perm)))


def _keeps_type(node: ir.Node) -> bool:
    x = node.inputs[0]
    if x is None or x.dtype is None:
        return False
    if node.op_type == "Cast":
        return x.dtype == cast_type(node)
    like = node.inputs[1]
    return like is not None and x.dtype == like.dtype


def _pads_nothing(node: ir.Node) -> bool:
    return not any(given_ints(node, "pads", 1) or ())


def _takes_all(node: ir.Node) -> bool:
    starts, ends = given_ints(node, "starts", 1), given_ints(node, "ends", 2)
    if not starts or not ends or any(starts) or min(ends) < INT32_MAX:
        return False
    return all(step == 1 for step in given_ints(node, "steps", 4) or ())


def _has_one_input(node: ir.Node) -> bool:
    return len(node.inputs) == 1


def _has_one_output(node: ir.Node) -> bool:
    return len(node.outputs) == 1


def _scales_by_one(node: ir.Node) -> bool:
    # Opset 10 takes (x, scales), later ones (x, region of interest, scales, sizes).
    index = 2 if node.op_type == "Resize" and len(node.inputs) > 2 else 1
    given = input_of(node, index)
    array = constant(given)
    scales = node.attributes.get_floats("scales", ()) if array is None else array.tolist()
    if not scales or any(scale != 1 for scale in scales):
        return False
    mode = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    if mode in ("tf_half_pixel_for_nn", "tf_crop_and_resize"):
        raise Refused(f"{mode} may move pixels at scale 1")
    return True


def _drops_nothing(node: ir.Node) -> bool:
    training = input_of(node, 2)
    if training is None:
        return True
    array = constant(training)
    return array is not None and not array.any()


def _pools_one_pixel(node: ir.Node) -> bool:
    names = ("kernel_shape", "strides")
    sizes = [size for name in names for size in node.attributes.get_ints(name, None) or ()]
    return not any(size != 1 for size in sizes) and not any(node.attributes.get_ints("pads", []))


def _repeats_once(node: ir.Node) -> bool:
    repeats, x = given_ints(node, "repeats", 1), node.inputs[0]
    if node.op_type == "Expand":
        rank = None if x is None else rank_of(x)
        if rank is None or len(repeats or ()) > rank:
            return False
    return all(count == 1 for count in repeats or ())


def _has_blocks_of_one(node: ir.Node) -> bool:
    return node.attributes.get_int("blocksize", 0) == 1


def _reduces_nothing(node: ir.Node) -> bool:
    return bool(node.attributes.get_int("noop_with_empty_axes", 0)) and not given_ints(
        node, "axes", 1
    )


_CHANGES_NOTHING: dict[str, Callable[[ir.Node], bool]] = {
    "Transpose": _permutes_nothing,
    "Cast": _keeps_type,
    "CastLike": _keeps_type,
    "Pad": _pads_nothing,
    "Slice": _takes_all,
    **dict.fromkeys(("Concat", "Sum", "Mean", "Max", "Min"), _has_one_input),
    "Split": _has_one_output,
    **dict.fromkeys(("Resize", "Upsample"), _scales_by_one),
    "Dropout": _drops_nothing,
    **dict.fromkeys(("AveragePool", "MaxPool"), _pools_one_pixel),
    **dict.fromkeys(("Tile", "Expand"), _repeats_once),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _has_blocks_of_one),
    **dict.fromkeys(
        ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"), _reduces_nothing
    ),
}


class DropNoop(DropRule):
    """Transpose, Cast, Pad, Slice ... -> nothing."""

    name = "drop_noop"
    roots = frozenset(_CHANGES_NOTHING)
    changes_nothing = _CHANGES_NOTHING
    minimum_opset = 7  # before, a Dropout trains unless told otherwise


RULE = DropNoop()


def _model(
    nodes: str, constants: str = "float u = {0}", x: str = "float[N, 4, H, W] x", opset: int = 18
) -> str:
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g ({x}) => ({x.split("[")[0]}[] z) <{constants}> {{ {nodes} }}"""


EXAMPLES = (
    _model("z = Transpose <perm = [0, 1, 2, 3]> (x)"),
    _model("z = Cast <to = 1> (x)"),
    _model("z = Cast <to = 7> (x)", x="int64[N] x"),
    _model("z = Cast <to = 9> (x)", x="bool[N, 4] x"),
    _model("y = Relu(x) z = CastLike(y, x)"),
    _model("z = Pad(x, p)", "int64[8] p = {0, 0, 0, 0, 0, 0, 0, 0}"),
    _model('z = Pad <mode = "reflect"> (x, p, , a)', "int64[2] p = {0, 0}, int64[1] a = {-1}"),
    _model("z = Pad <pads = [0, 0, 0, 0, 0, 0, 0, 0]> (x)", opset=9),
    _model(
        "z = Slice(x, b, e, a, s)",
        "int64[2] b = {0, 0}, int64[2] e = {9223372036854775807, 2147483647}, "
        "int64[2] a = {-1, 1}, int64[2] s = {1, 1}",
    ),
    _model("z = Slice <starts = [0], ends = [2147483647]> (x)", opset=9),
    _model("z = Concat <axis = 1> (x)"),
    _model("z = Max(x)"),
    _model("z = Min(x)", x="float[N] x"),
    _model("z = Sum(x)", opset=8),
    _model("z = Mean(x)"),
    _model("z = Split <axis = 1, num_outputs = 1> (x)"),
    _model("z = Split <axis = 1, split = [4]> (x)", opset=11),
    _model('z = Resize <mode = "cubic"> (x, , s)', "float[4] s = {1, 1, 1, 1}"),
    _model(
        'z = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (x, , s)',
        "float[4] s = {1, 1, 1, 1}",
    ),
    _model("z = Resize(x, s)", "float[4] s = {1, 1, 1, 1}", opset=10),
    _model("z = Upsample(x, s)", "float[4] s = {1, 1, 1, 1}", opset=9),
    _model("z = Dropout(x)"),
    _model("z = Dropout(x, r, t)", "float r = {0.5}, bool t = {0}"),
    _model("z = Dropout <ratio = 0.3> (x)", opset=9),
    _model("z = MaxPool <kernel_shape = [1, 1]> (x)"),
    _model('z = AveragePool <kernel_shape = [1], auto_pad = "SAME_UPPER"> (x)', x="float[N,4,L] x"),
    _model("z = Tile(x, r)", "int64[4] r = {1, 1, 1, 1}"),
    _model("z = Expand(x, r)", "int64[2] r = {1, 1}"),
    _model("z = DepthToSpace <blocksize = 1> (x)"),
    _model("z = SpaceToDepth <blocksize = 1> (x)"),
    _model("z = ReduceMax <noop_with_empty_axes = 1> (x)"),
)

NEAR_MISSES = (
    (_model("z = Transpose <perm = [0, 1, 3, 2]> (x)"), ""),
    (_model("z = Transpose(x)"), ""),
    (_model("z = Cast <to = 11> (x)").replace("float[] z", "double[] z"), ""),
    (_model("z = Pad(x, p)", "int64[8] p = {0, 0, 0, 0, 0, 0, 0, -1}"), ""),
    (_model("q = Abs(p) z = Pad(x, q)", "int64[8] p = {0, 0, 0, 0, 0, 0, 0, 0}"), ""),
    (_model("z = Slice(x, b, e)", "int64[1] b = {0}, int64[1] e = {1000}"), ""),
    (_model("z = Slice(x, b, e)", "int64[1] b = {1}, int64[1] e = {2147483647}"), ""),
    (
        _model(
            "z = Slice(x, b, e, a, s)",
            "int64[1] b = {0}, int64[1] e = {2147483647}, int64[1] a = {3}, int64[1] s = {2}",
        ),
        "",
    ),
    (_model("z = Concat <axis = 1> (x, x)"), ""),
    (_model("z = Resize(x, , s)", "float[4] s = {1, 1, 1, 2}"), ""),
    (
        _model(
            "z = Resize <coordinate_transformation_mode = "
            '"tf_half_pixel_for_nn", nearest_mode = "ceil"> (x, , s)',
            "float[4] s = {1, 1, 1, 1}",
        ),
        "may move pixels",
    ),
    (_model("z = Dropout(x, r, t)", "float r = {0.5}, bool t = {1}"), ""),
    (
        _model("z, m = MaxPool <kernel_shape = [1, 1]> (x) v = Abs(m)").replace(
            "float[] z", "float[] z, int64[] v"
        ),
        "also read",
    ),
    (
        _model("z, m = Dropout(x) v = Not(m)").replace("float[] z", "float[] z, bool[] v"),
        "also read",
    ),
    (_model("z = MaxPool <kernel_shape = [1, 1], strides = [2, 1]> (x)"), ""),
    (_model("z = MaxPool <kernel_shape = [1, 1], pads = [0, 0, 0, 1]> (x)"), ""),
    (_model("z = MaxPool <kernel_shape = [1, 2]> (x)"), ""),
    (_model("z = Tile(x, r)", "int64[4] r = {1, 1, 2, 1}"), ""),
    (_model("z = Expand(x, r)", "int64[5] r = {1, 1, 1, 1, 1}"), ""),
    (_model("z = DepthToSpace <blocksize = 2> (x)"), ""),
    (_model("z = ReduceMax <keepdims = 1> (x)"), ""),
)
