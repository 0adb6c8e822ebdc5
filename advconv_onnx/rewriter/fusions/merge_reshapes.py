"""Merge operators one after another that keep all elements in their order.

    Reshape(Flatten(Squeeze(Unsqueeze(x))))  =  Reshape(x), Squeeze(x), Unsqueeze(x) or x itself

Dynamic sizes are followed by name: what is kept in place becomes 0, one that is not known -1.
Refused where two sizes would have to be -1, and where a -1 beside another dynamic size is new: an
empty tensor, which any other operator passes on, could then not be reshaped. A chain that something
else reads a part of is only rewritten where it makes what x is.
"""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.layout import (
    RESHAPING,
    Size,
    Sizes,
    given_axes,
    given_ints,
    reshape,
    sizes_of,
    target_of,
    with_ints,
)
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import is_only_read_by, maker

_LONGEST = 4
"""Nodes looked at: two merge as soon as they can, so that more are only left where they cannot."""


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Which operator takes x to its new shape: Reshape, Squeeze, Unsqueeze, or "" for none."""

    x: ir.Value
    op_type: str
    ints: tuple[int, ...]


class MergeReshapes(Rule[_Plan]):
    """Reshape(Reshape(x)) -> Reshape(x)."""

    name = "merge_reshapes"
    roots = RESHAPING
    affine_in_weights = False
    needs_shapes = True
    minimum_opset = 5

    def find(self, root: ir.Node, opset: int) -> Site[_Plan]:
        chain = _chain(root)
        for start in range(len(chain) - 2, -1, -1):
            x = chain[start].inputs[0]
            assert x is not None
            if x.shape is not None and _result(chain[start:], sizes_of(x)) == sizes_of(x):
                return Site(tuple(chain[start:]), _Plan(x, "", ()))
        chain = _unshared(chain)
        x = chain[0].inputs[0]
        if x is None or len(chain) == 1:
            raise NoSite
        return Site(tuple(chain), _shortest(chain, x))

    def rewrite(self, op: Builder, plan: _Plan) -> ir.Value:
        if not plan.op_type:
            return plan.x
        name = "shape" if plan.op_type == "Reshape" else "axes"
        since = 5 if plan.op_type == "Reshape" else 13
        return with_ints(op, plan.op_type, plan.x, since, **{name: plan.ints})

    def keeps(self, node: ir.Node) -> bool:
        return True  # Where something else reads one, all of a chain takes itself back.


def _chain(root: ir.Node) -> list[ir.Node]:
    """The last nodes of a chain that ends in ``root``, whatever else reads them."""
    _ints(root)
    chain = [root]
    while len(chain) < _LONGEST:
        node = maker(chain[0].inputs[0], *RESHAPING, graph=root.graph)
        if node is None or not _is_constant(node):
            break
        chain.insert(0, node)
    return chain


def _unshared(chain: list[ir.Node]) -> list[ir.Node]:
    """The end of a chain whose nodes are only read by the next one."""
    start = len(chain) - 1
    while start and is_only_read_by(chain[start - 1].outputs[0], chain[start]):
        start -= 1
    return chain[start:]


def _result(chain: list[ir.Node], sizes: Sizes) -> Sizes | None:
    """The sizes that a chain makes, None where not even their number is known."""
    try:
        for node in chain:
            sizes = reshape(node, sizes)
    except NoSite:
        return None
    return sizes


def _ints(node: ir.Node) -> list[int] | None:
    return given_ints(node, "shape" if node.op_type == "Reshape" else "axes", 1)


def _is_constant(node: ir.Node) -> bool:
    try:
        _ints(node)
    except NoSite:
        return False
    return True


def _shortest(chain: list[ir.Node], x: ir.Value) -> _Plan:
    if x.shape is None:
        return _Plan(x, "Reshape", _absolute_target(chain[-1]))
    sizes = sizes_of(x)
    wanted = _result(chain, sizes)
    if wanted is None:
        raise NoSite
    moved = _moved_axes(chain, len(sizes))
    removed = tuple(axis for axis in range(len(sizes)) if axis not in moved)
    added = tuple(axis for axis, source in enumerate(moved) if source is None)
    if moved and not removed:
        return _Plan(x, "Unsqueeze", added)
    if moved and not added:
        return _Plan(x, "Squeeze", removed)
    target = target_of(wanted, sizes)
    if target.divides and not any(_has_hole(node) for node in chain):
        raise Refused("an empty tensor could not be reshaped")
    return _Plan(x, "Reshape", target.shape)


def _absolute_target(root: ir.Node) -> tuple[int, ...]:
    """What a Reshape asks for whatever it is given."""
    target = given_ints(root, "shape", 1) if root.op_type == "Reshape" else None
    if target is None or 0 in target:
        raise NoSite
    return tuple(target)


def _has_hole(node: ir.Node) -> bool:
    return node.op_type == "Reshape" and -1 in (given_ints(node, "shape", 1) or ())


def _moved_axes(chain: list[ir.Node], rank: int) -> list[int | None]:
    """Input axis of each axis of the result of Squeezes and Unsqueezes, None for a new one.

    Empty where there are others in the chain, or sizes decide.
    """
    moved: list[int | None] = list(range(rank))
    for node in chain:
        axes = given_axes(node, 1, len(moved)) if node.op_type == "Squeeze" else None
        if node.op_type == "Squeeze" and axes:
            moved = [source for axis, source in enumerate(moved) if axis not in axes]
        elif node.op_type == "Unsqueeze":
            marks: Sizes = tuple(str(axis) for axis in range(len(moved)))
            moved = [_source(mark, moved) for mark in reshape(node, marks)]
        else:
            return []
    return moved


def _source(mark: Size, moved: list[int | None]) -> int | None:
    return moved[int(mark)] if isinstance(mark, str) else None


RULE = MergeReshapes()


def _model(
    nodes: str, x: str, constants: str = "float u = {0}", opset: int = 18, out: str = "float[] z"
) -> str:
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g (float{f"[{x}]" if x else ""} x) => ({out}) <{constants}> {{ {nodes} }}"""


_ONE_TWO = "int64[1] a = {1}, int64[1] b = {2}, int64[2] c = {0, -1}, int64[1] d = {0}"
_BOTH = "float[] z, float[] v"
_RESHAPES = "y = Reshape(x, s) z = Reshape(y, t)"

EXAMPLES = (
    _model(_RESHAPES, "2, 3, 4", "int64[2] s = {6, 4}, int64[2] t = {3, 8}"),
    _model(_RESHAPES, "N, 3, 4", "int64[2] s = {-1, 4}, int64[2] t = {-1, 12}"),
    _model(_RESHAPES, "N, 3, 4", "int64[2] s = {-1, 4}, int64[3] t = {-1, 3, 4}"),
    _model(_RESHAPES, "N, C, 4", "int64[4] s = {0, 0, 2, 2}, int64[3] t = {0, -1, 2}"),
    _model(_RESHAPES, "N, C, 6", "int64[4] s = {0, 0, 2, 3}, int64[4] t = {0, 0, 3, 2}"),
    _model(_RESHAPES, "N, 6, W", "int64[4] s = {0, 2, 3, -1}, int64[3] t = {0, 6, -1}"),
    _model("y = Flatten(x) z = Reshape(y, t)", "N, 3, 4", "int64[3] t = {0, 3, 4}"),
    _model("y = Flatten(x) z = Reshape(y, t)", "N, 3, 4", "int64[3] t = {0, 2, 6}"),
    _model("y = Unsqueeze(x, a) z = Squeeze(y, a)", "N, C, H", _ONE_TWO),
    _model("y = Unsqueeze(x, a) z = Unsqueeze(y, c)", "N, C, H", _ONE_TWO),
    _model("y = Squeeze(x, b) z = Squeeze(y, a)", "N, 1, 1, H", _ONE_TWO),
    _model("y = Unsqueeze(x, b) z = Squeeze(y, a)", "N, 1, H", _ONE_TWO),
    _model("y = Squeeze <axes = [1]> (x) z = Unsqueeze <axes = [0]> (y)", "N, 1, 3", opset=11),
    _model(
        "y = Unsqueeze(x, a) z = Reshape(y, t)",
        "N, 30, 1",
        "int64[1] a = {-3}, int64[4] t = {-1, 1, 1, 30}",
    ),
    _model("y = Squeeze(x, a) z = Unsqueeze(y, a) v = Relu(y)", "N, 1, H", _ONE_TWO, out=_BOTH),
    _model("v = Relu(x) y = Flatten(v) z = Reshape(y, t)", "N, 3, 4", "int64[2] t = {-1, 3}"),
)

NEAR_MISSES = (
    (
        _model(
            f"{_RESHAPES} v = Relu(y)",
            "2, 3, 4",
            "int64[2] s = {6, 4}, int64[2] t = {3, 8}",
            out=_BOTH,
        ),
        "",
    ),
    (
        _model(
            _RESHAPES,
            "2, 3, 4",
            "int64[2] s = {6, 4}, int64[2] t = {3, 8}",
            out="float[] z, float[] y",
        ),
        "",
    ),
    (_model("z = Reshape(x, s)", "2, 3, 4", "int64[2] s = {6, 4}"), ""),
    (_model("y = Reshape(x, s) v = Relu(y) z = Flatten(v)", "2, 3", "int64[1] s = {6}"), ""),
    (_model("s = Shape(x) y = Flatten(x) z = Reshape(y, s)", "N, C, H"), ""),
    (_model("y = Squeeze(x) z = Unsqueeze(y, a)", "N, 1, H", _ONE_TWO), ""),
    (_model("y = Unsqueeze(x, a) z = Flatten(y)", "N, C, H", _ONE_TWO), "empty"),
    (_model("y = Squeeze(x, a) z = Unsqueeze(y, d)", "N, 1, C, H", _ONE_TWO), "empty"),
    (_model("y = Unsqueeze(x, a) z = Flatten <axis = 3> (y)", "N, C, H", _ONE_TWO), "two sizes"),
    (_model("y = Flatten(x) s = Shape(x) z = Reshape(y, s)", "N, 3, 4"), ""),
)
