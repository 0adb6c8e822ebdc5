"""Spell an integer-scale Resize so that ONNX Runtime keeps its blocked layout.

    nearest, half_pixel, round_prefer_floor or _ceil  =  nearest, asymmetric, floor
    nearest, asymmetric, round_prefer_floor           =  nearest, asymmetric, floor   (scale 2)
    linear, pytorch_half_pixel                        =  linear, half_pixel    (output size > 1)

and half_pixel_symmetric or pytorch_half_pixel for half_pixel. For an integer scale s, half_pixel
maps output o = q s + r to (o + 1/2) / s - 1/2 = q + (2 r + 1 - s) / (2 s), a fraction strictly
within (-1/2, 1/2), so that both roundings give q = floor(o / s). pytorch_half_pixel differs from it
only for an output of one pixel; with a scale of at least 2 there is none. ``sizes`` that are an
integer multiple of a known input size, or the input's own, become ``scales``. Refused otherwise:
fractional scales, shrinking, scaled batch or channels, a region of interest, antialiasing, cubic.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.layout import sizes_of
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.shapes import Numbers, numbers_of
from advconv_onnx.rewriter.walk import input_of

_FLOOR = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}

_CENTERED = frozenset(("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel"))
"""At an integer scale these place the outputs alike, but for an output of one pixel."""

_KEPT = frozenset(("asymmetric", "align_corners"))
"""Placements that a linear Resize keeps its blocked layout with, as it does with half_pixel."""

Plan = tuple[ir.Value, str, dict[str, str], list[int]]


class SpellResize(Rule[Plan]):
    """Resize at integer scale -> the spelling that stays in the blocked layout."""

    name = "spell_resize"
    roots = frozenset(("Resize",))
    affine_in_weights = False
    needs_shapes = True
    minimum_opset = 13  # before, an absent region of interest must be spelled out

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        x = root.inputs[0]
        if x is None:
            raise NoSite
        mode, attributes = _spelling(root)
        scales, nodes = _scales(root)
        if any(scale != 1 for scale in scales[:2]) or len(scales) < 3:
            raise Refused("it scales batch or channels")
        wanted = _canonical(mode, attributes, max(scales))
        if wanted == attributes and _given(root, 2) is not None:
            raise NoSite
        moved = mode == "linear" and wanted != attributes
        if moved and any(scale < 2 for scale in scales[2:]):
            raise Refused("an output might have one pixel, where pytorch_half_pixel differs")
        return Site((*nodes, root), (x, mode, wanted, scales))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        x, mode, attributes, scales = plan
        given = op.initializer(np.array(scales, np.float32), "scales")
        return op.Resize(x, None, given, mode=mode, **attributes)

    def keeps(self, node: ir.Node) -> bool:
        return node.op_type != "Resize"  # The sizes may be read elsewhere.


def _spelling(resize: ir.Node) -> tuple[str, dict[str, str]]:
    """The mode, and the attributes that say where outputs lie and how they are rounded."""
    attributes = resize.attributes
    mode = str(attributes.get_string("mode", "nearest"))
    if mode not in ("nearest", "linear"):
        raise Refused(f"the mode is {mode}")
    if attributes.get_int("antialias", 0) or "axes" in attributes:
        raise Refused("the Resize has antialias or axes")
    defaults = {"coordinate_transformation_mode": "half_pixel"}
    if mode == "nearest":
        defaults["nearest_mode"] = "round_prefer_floor"
    return mode, {
        name: str(attributes.get_string(name, default)) for name, default in defaults.items()
    }


def _canonical(mode: str, attributes: dict[str, str], largest: int) -> dict[str, str]:
    """The attributes of an equal Resize at integer scales that stays in the blocked layout."""
    placement = attributes["coordinate_transformation_mode"]
    rounding = attributes.get("nearest_mode", "")
    if mode == "linear":
        if placement in _KEPT:
            return attributes
        if placement in _CENTERED:
            return {"coordinate_transformation_mode": "half_pixel"}
    elif (
        attributes == _FLOOR
        or (placement in _CENTERED and rounding.startswith("round_prefer"))
        # A half is the only fraction at scale 2.
        or (placement == "asymmetric" and rounding == "round_prefer_floor" and largest <= 2)
    ):
        return _FLOOR
    spelling = " ".join(filter(None, (mode, placement, rounding)))
    raise Refused(f"{spelling} is no equal of a fast one")


def _scales(resize: ir.Node) -> tuple[list[int], tuple[ir.Node, ...]]:
    """Integer scales per axis, from ``scales`` or ``sizes``, and the nodes that compute these."""
    given, sizes = _given(resize, 2), _given(resize, 3)
    nodes: tuple[ir.Node, ...] = ()
    if given is not None:
        array = constant(given)
        scales = None if array is None else array.reshape(-1)
    elif sizes is not None:
        numbers = numbers_of(sizes, resize.graph)
        scales, nodes = _from_sizes(numbers, resize.inputs[0]), numbers.nodes
    else:
        scales = None
    if scales is None:
        raise Refused("the scales are not constant, nor known from sizes and input shape")
    if (scales < 1).any() or (scales != np.round(scales)).any():
        raise Refused(f"the scales {scales.tolist()} are not all integer and at least 1")
    return [int(scale) for scale in scales], nodes


def _from_sizes(wanted: Numbers, x: ir.Value | None) -> np.ndarray | None:
    """The quotients of sizes, 1 where a dynamic size is kept; None where one is not known."""
    own = sizes_of(x)
    read = [node.inputs[0] for node in wanted.nodes if node.op_type == "Shape"]
    if len(own) != len(wanted.items) or any(value is not x for value in read):
        return None
    scales = []
    for size, kept in zip(wanted.items, own, strict=True):
        if isinstance(size, int) and isinstance(kept, int) and kept:
            scales.append(size / kept)
        elif size is not None and size == kept:
            scales.append(1.0)
        else:
            # A constant batch is mostly that of the input, but that is not known to hold.
            return None
    return np.array(scales)


def _given(node: ir.Node, index: int) -> ir.Value | None:
    """An optional input; exporters also spell "absent" as an empty constant."""
    value = input_of(node, index)
    array = constant(value)
    return None if array is not None and array.size == 0 else value


RULE = SpellResize()


def _model(
    attributes: str,
    inputs: str = "x, , s",
    x: str = "float[N, 2, H, W] x",
    opset: int = 18,
    before: str = "",
) -> str:
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g ({x}) => (float[N, 2, P, Q] z)
    <float[4] s = {{1, 1, 2, 3}}, float[4] t = {{1, 1, 1.5, 2}}, int64[4] n = {{1, 2, 10, 21}},
     float[0] e = {{}}, float[4] d = {{1, 1, 2, 2}}, float[4] o = {{1, 1, 1, 2}},
     int64[1] p = {{0}}, int64[1] q = {{2}}, int64[2] r = {{10, 21}}>
    {{ {before} z = Resize <{attributes}> ({inputs}) }}"""


EXAMPLES = (
    _model('mode = "nearest"'),
    _model('mode = "nearest", nearest_mode = "round_prefer_floor"', "x, e, s"),
    _model('mode = "linear", coordinate_transformation_mode = "pytorch_half_pixel"'),
    _model('mode = "linear"', "x, , , n", "float[1, 2, 5, 7] x"),
    # A dynamic batch that is kept, as torch writes it.
    _model(
        'mode = "nearest"',
        "x, , , k",
        "float[N, 2, 5, 7] x",
        before="h = Shape(x) i = Slice(h, p, q) k = Concat <axis = 0> (i, r)",
    ),
    _model(
        'mode = "linear", coordinate_transformation_mode = "pytorch_half_pixel"',
        "x, , , k",
        "float[N, C, 5, 7] x",
        before="h = Shape <start = 0, end = 2> (x) k = Concat <axis = 0> (h, r)",
    ),
    _model('mode = "nearest", nearest_mode = "round_prefer_ceil"'),
    _model('mode = "nearest", coordinate_transformation_mode = "pytorch_half_pixel"'),
    _model('mode = "nearest", coordinate_transformation_mode = "half_pixel_symmetric"', opset=19),
    _model('mode = "linear", coordinate_transformation_mode = "half_pixel_symmetric"', opset=19),
    _model('mode = "nearest", coordinate_transformation_mode = "asymmetric"', "x, , d"),
    _model(
        'mode = "linear", coordinate_transformation_mode = "align_corners"',
        "x, , , n",
        "float[1, 2, 5, 7] x",
    ),
    _model(
        'mode = "linear", coordinate_transformation_mode = "asymmetric"',
        "x, , , n",
        "float[1, 2, 5, 7] x",
    ),
    _model(
        'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"',
        "x, , , n",
        "float[1, 2, 5, 7] x",
    ),
)

NEAR_MISSES = (
    (_model('mode = "nearest"', "x, , t"), "not all integer"),
    (_model('mode = "nearest"', "x, , , n"), "not constant"),
    # The batch of another tensor, and axes that are exchanged.
    (
        _model(
            'mode = "nearest"',
            "x, , , k",
            "float[N, 2, 5, 7] x, float[M, 2] u",
            before="h = Shape <start = 0, end = 2> (u) k = Concat <axis = 0> (h, r)",
        ),
        "not constant",
    ),
    (
        _model(
            'mode = "nearest"',
            "x, , , k",
            "float[N, C, 5, 7] x",
            before="h = Shape <start = 0, end = 1> (x) i = Shape <start = 1, end = 2> (x) "
            "k = Concat <axis = 0> (i, h, r)",
        ),
        "not constant",
    ),
    (
        _model(
            'mode = "nearest"',
            "x, , , k",
            "float[N, 2, 4, 7] x",
            before="h = Shape <start = 0, end = 2> (x) k = Concat <axis = 0> (h, r)",
        ),
        "not all integer",
    ),
    (_model('mode = "nearest"', "x, , , n", "float[1, 2, 4, 7] x"), "not all integer"),
    (_model('mode = "nearest", nearest_mode = "ceil"'), "no equal"),
    (_model('mode = "nearest", coordinate_transformation_mode = "align_corners"'), "no equal"),
    (_model('mode = "nearest", coordinate_transformation_mode = "asymmetric"'), "no equal"),
    (_model('mode = "nearest", nearest_mode = "floor"'), "no equal"),
    (
        _model(
            'mode = "nearest", coordinate_transformation_mode = "asymmetric", '
            'nearest_mode = "round_prefer_ceil"',
            "x, , d",
        ),
        "no equal",
    ),
    (_model('mode = "linear", coordinate_transformation_mode = "align_corners"'), ""),
    (_model('mode = "linear"', "x, , s"), ""),
    (
        _model('mode = "linear", coordinate_transformation_mode = "pytorch_half_pixel"', "x, , o"),
        "one pixel",
    ),
    (_model('mode = "cubic"'), "mode is cubic"),
    (
        _model(
            'mode = "nearest", coordinate_transformation_mode = "asymmetric", '
            'nearest_mode = "floor"'
        ),
        "",
    ),
)
