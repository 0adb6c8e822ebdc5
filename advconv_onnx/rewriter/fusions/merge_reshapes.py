"""Merge operators one after another that keep all elements in their order.

    Reshape(Flatten(Squeeze(Unsqueeze(x))))  =  Reshape(x), Squeeze(x), Unsqueeze(x) or x itself

Dynamic sizes are followed by name: what is kept in place becomes 0, one that is not known -1.
Refused where two sizes would have to be -1, and where a -1 beside another dynamic size is new: an
empty tensor, which any other operator passes on, could then not be reshaped.
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
        x = chain[0].inputs[0]
        assert x is not None
        return Site(tuple(chain), _shortest(chain, x))

    def rewrite(self, op: Builder, plan: _Plan) -> ir.Value:
        if not plan.op_type:
            return plan.x
        name = "shape" if plan.op_type == "Reshape" else "axes"
        since = 5 if plan.op_type == "Reshape" else 13
        return with_ints(op, plan.op_type, plan.x, since, **{name: plan.ints})


def _chain(root: ir.Node) -> list[ir.Node]:
    """The nodes that end in ``root``, at least two, each only read by the next."""
    if _goes_on(root):
        raise NoSite
    chain = [root]
    while True:
        value = chain[0].inputs[0]
        node = maker(value, *RESHAPING, graph=root.graph)
        if node is None or value is None or not is_only_read_by(value, chain[0]):
            break
        chain.insert(0, node)
    if len(chain) == 1:
        raise NoSite
    for node in chain:
        _ints(node)
    return chain


def _ints(node: ir.Node) -> list[int] | None:
    return given_ints(node, "shape" if node.op_type == "Reshape" else "axes", 1)


def _goes_on(root: ir.Node) -> bool:
    """Whether the chain ends further down, where it is rewritten as a whole."""
    y = root.outputs[0]
    readers = [reader for reader, _ in y.uses()]
    if y.is_graph_output() or len(readers) != 1 or readers[0].inputs[0] is not y:
        return False
    reader = maker(readers[0].outputs[0], *RESHAPING, graph=root.graph)
    if reader is None:
        return False
    try:
        _ints(reader)
    except NoSite:
        return False
    return True


def _shortest(chain: list[ir.Node], x: ir.Value) -> _Plan:
    if x.shape is None:
        return _Plan(x, "Reshape", _absolute_target(chain[-1]))
    sizes = wanted = sizes_of(x)
    for node in chain:
        wanted = reshape(node, wanted)
    if wanted == sizes:
        return _Plan(x, "", ())
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
    _model("y = Unsqueeze(x, a) v = Squeeze(y, b) z = Squeeze(v, a)", "N, 1, H", _ONE_TWO),
    _model("y = Unsqueeze(x, b) z = Squeeze(y, a)", "N, 1, H", _ONE_TWO),
    _model("y = Squeeze <axes = [1]> (x) z = Unsqueeze <axes = [0]> (y)", "N, 1, 3", opset=11),
    _model(
        "y = Reshape(x, s) v = Unsqueeze(y, a) z = Reshape(v, t)",
        "N, 1, 30",
        "int64[3] s = {-1, 30, 1}, int64[1] a = {-3}, int64[4] t = {-1, 1, 1, 30}",
    ),
    _model("v = Relu(x) y = Flatten(v) z = Reshape(y, t)", "N, 3, 4", "int64[2] t = {-1, 3}"),
)

NEAR_MISSES = (
    (
        _model(
            f"{_RESHAPES} v = Relu(y)",
            "2, 3, 4",
            "int64[2] s = {6, 4}, int64[2] t = {3, 8}",
            out="float[] z, float[] v",
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
