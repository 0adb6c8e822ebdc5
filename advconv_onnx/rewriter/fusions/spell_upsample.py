"""Spell a nearest enlargement that is made of Reshape and Expand as Resize.

    Reshape(Expand(Reshape(x; N, C, H, 1, W, 1); N, C, H, a, W, b); N, C, a H, b W)
        =  Resize(x; nearest, asymmetric, floor, scales (1, 1, a, b))

where pixels are repeated by Expand, Tile or a Concat with itself, one after another too, and the
axes of size 1 come from Reshape or Unsqueeze, for one spatial axis or both; further axes of size 1
in the result come from one more Reshape. In ONNX Runtime Resize
is 2 to 20 times faster (measured), and stays in the blocked layout after a convolution. Refused
when H and W are not known, when other axes are repeated, and when an intermediate value is read
elsewhere.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.activations import require_float
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.layout import Sizes, given_ints, reshape, sizes_of
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import producer

_REPEATING = ("Expand", "Tile", "Concat")

Plan = tuple[ir.Value, tuple[int, int], tuple[int, ...] | None]


class SpellUpsample(Rule[Plan]):
    """Reshape(Expand(Reshape(x))) -> Resize(x)."""

    name = "spell_upsample"
    roots = frozenset(("Reshape",))
    affine_in_weights = False
    needs_shapes = True
    minimum_opset = 13  # before, an absent region of interest must be spelled out

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        node = producer(root.inputs[0], *_REPEATING, graph=root.graph)
        repeating = [node]
        while node.op_type in _REPEATING:
            node = producer(node.inputs[0], *_REPEATING, "Reshape", "Unsqueeze", graph=root.graph)
            repeating.append(node)
        opening = repeating.pop()
        x = opening.inputs[0]
        sizes = sizes_of(x)
        if x is None or len(sizes) != 4:
            raise NoSite
        opened = reshape(opening, sizes)
        repeats = _repeats(opened, repeating[::-1])
        scales = _scales(sizes, opened, repeats)
        wanted = (*sizes[:2], *(_times(n, s) for n, s in zip(sizes[2:], scales, strict=True)))
        result = reshape(root, _repeated(opened, repeats))
        if _without_ones(result) != _without_ones(wanted):
            raise Refused(f"the result is not known to have the sizes {list(wanted)}")
        require_float(x)
        target = None if result == wanted else _target(result)
        return Site((opening, *repeating[::-1], root), (x, scales, target))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        x, scales, target = plan
        y = op.Resize(
            x,
            None,
            op.initializer(np.array([1, 1, *scales], np.float32), "scales"),
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        return y if target is None else op.Reshape(y, op.initializer(np.array(target), "shape"))


def _without_ones(sizes: Sizes) -> Sizes:
    return tuple(size for size in sizes if size != 1)


def _target(sizes: Sizes) -> tuple[int, ...]:
    """Sizes as the second input of a Reshape."""
    target = tuple(size if isinstance(size, int) else -1 for size in sizes)
    if target.count(-1) > 1:
        raise Refused(f"several of the sizes {list(sizes)} are unknown")
    return target


def _repeats(sizes: Sizes, nodes: list[ir.Node]) -> tuple[int, ...]:
    """How often each axis is repeated by a chain of nodes.

    Raises:
        NoSite: a node does something else, or something that is not known.
    """
    repeats = [1] * len(sizes)
    for node in nodes:
        if node.op_type == "Concat":
            if any(value is not node.inputs[0] for value in node.inputs):
                raise NoSite
            repeats[node.attributes.get_int("axis", 1) % len(sizes)] *= len(node.inputs)
            continue
        given = given_ints(node, "repeats", 1)
        if given is None or len(given) > len(sizes):
            raise NoSite
        counts = [1] * (len(sizes) - len(given)) + given
        for axis, (count, size) in enumerate(zip(counts, sizes, strict=True)):
            if node.op_type == "Tile":
                repeats[axis] *= count
            elif size == 1 and repeats[axis] == 1:
                repeats[axis] = count
            elif count not in (1, _times(size, repeats[axis])):
                raise NoSite
    return tuple(repeats)


def _scales(sizes: Sizes, opened: Sizes, repeats: tuple[int, ...]) -> tuple[int, int]:
    """Repeats of each of the last two of the four axes, from those of the axes of 1 behind it.

    Raises:
        NoSite: the axes of 1 are elsewhere, or other ones are repeated.
    """
    found = [1, 1, 1, 1]
    current = -1
    for size, count in zip(opened, repeats, strict=True):
        if current + 1 < len(sizes) and size == sizes[current + 1] and count == 1:
            current += 1
        elif size == 1 and current >= 2:
            found[current] *= count
        else:
            raise NoSite
    if current != 3 or found[2:] == [1, 1]:
        raise NoSite
    return found[2], found[3]


def _repeated(sizes: Sizes, repeats: tuple[int, ...]) -> Sizes:
    return tuple(_times(size, count) for size, count in zip(sizes, repeats, strict=True))


def _times(size: int | str, count: int) -> int | str:
    if isinstance(size, int):
        return size * count
    return size if count == 1 else f"{count}*{size}"


RULE = SpellUpsample()


def _model(
    nodes: str, x: str = "float[N, 2, 5, 7] x", opset: int = 18, out: str = "float[] z"
) -> str:
    return f"""<ir_version: 8, opset_import: ["" : {opset}]> g ({x}) => ({out})
    <int64[6] open = {{-1, 2, 5, 1, 7, 1}}, int64[6] six = {{1, 1, 1, 2, 1, 3}},
     int64[6] own = {{1, 2, 5, 2, 7, 3}}, int64[4] close = {{-1, 2, 10, 21}},
     int64[2] axes = {{3, 5}}, int64[1] row = {{3}}, int64[5] twice = {{1, 1, 1, 2, 1}},
     int64[4] rows = {{0, 0, 10, 7}}, int64[6] wrong = {{1, 1, 2, 1, 1, 3}},
     int64[4] front = {{-1, 4, 5, 7}}, int64[1] channel = {{2}}, int64[5] both = {{1, 1, 2, 1, 1}},
     int64[5] next = {{-1, 2, 10, 7, 1}}>
    {{ {nodes} }}"""


EXAMPLES = (
    _model("a = Reshape(x, open) b = Expand(a, six) z = Reshape(b, close)"),
    _model("a = Unsqueeze(x, axes) b = Tile(a, six) z = Reshape(b, close)"),
    _model("a = Reshape(x, open) b = Expand(a, own) z = Reshape(b, close)", "float[1, 2, 5, 7] x"),
    _model("a = Unsqueeze(x, row) b = Expand(a, twice) z = Reshape(b, rows)"),
    _model("a = Unsqueeze(x, row) b = Concat <axis = 3> (a, a) z = Reshape(b, rows)"),
    _model(
        "a = Unsqueeze(x, axes) b = Concat <axis = 3> (a, a) c = Concat <axis = -1> (b, b, b) "
        "z = Reshape(c, close)"
    ),
    # The last Reshape makes room for the next repetition already.
    _model("a = Unsqueeze(x, row) b = Tile(a, twice) z = Reshape(b, next)"),
)

NEAR_MISSES = (
    (_model("a = Reshape(x, open) b = Tile(a, wrong) z = Reshape(b, close)"), ""),
    (_model("a = Unsqueeze(x, channel) b = Tile(a, both) z = Reshape(b, front)"), ""),
    (_model("a = Unsqueeze(x, row) b = Concat <axis = 2> (a, a) z = Reshape(b, rows)"), ""),
    (_model("a = Unsqueeze(x, row) b = Expand(a, twice) z = Reshape(b, front)"), "sizes"),
    (
        _model(
            "a = Unsqueeze(x, axes) b = Tile(a, six) z = Reshape(b, close)", "float[N, 2, H, W] x"
        ),
        "sizes",
    ),
    (
        _model(
            "a = Unsqueeze(x, row) b = Expand(a, twice) z = Reshape(b, rows)",
            out="float[] z, float[] b",
        ),
        "also an output",
    ),
    (
        _model(
            "a = Unsqueeze(x, row) b = Exp(a) c = Concat <axis = 3> (a, b) z = Reshape(c, rows)"
        ),
        "",
    ),
)
