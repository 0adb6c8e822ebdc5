"""Merge a Slice of a Slice.

    x[a : b][c : d]  =  x[a + c : min(b, a + d)]      steps of 1, no number counted from the end
    Slice(Slice(x, axes A), axes B)  =  Slice(x, axes A and B)                   different axes

On an axis of both, numbers counted from the end are allowed where the size is known. Refused there
for other steps than 1, and where such a number counts from an end that is not known.
"""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import rank_of
from advconv_onnx.rewriter.layout import INT32_MAX, Size, given_ints, sizes_of, with_ints
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import producer


@dataclasses.dataclass(frozen=True)
class _Range:
    """What a Slice takes of an axis."""

    start: int
    end: int
    step: int

    def counted_from_first(self, size: Size) -> _Range:
        """The same range without numbers below zero."""
        if self.start >= 0 and self.end >= 0:
            return self
        if not isinstance(size, int):
            raise Refused("a Slice counts from an end that is not known")
        start, end, _ = slice(self.start, self.end).indices(size)
        return _Range(start, end, self.step)


Plan = tuple[ir.Value, dict[int, _Range]]


class MergeSlices(Rule[Plan]):
    """Slice(Slice(x)) -> Slice(x)."""

    name = "merge_slices"
    roots = frozenset(("Slice",))
    affine_in_weights = False
    needs_shapes = True

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        inner = producer(root.inputs[0], "Slice", graph=root.graph)
        x = inner.inputs[0]
        assert x is not None
        rank = rank_of(x)
        ranges = _ranges(inner, rank)
        for axis, outer in _ranges(root, rank).items():
            if axis in ranges:
                between = sizes_of(inner.outputs[0])[axis] if inner.outputs[0].shape else ""
                before = sizes_of(x)[axis] if rank is not None else ""
                ranges[axis] = _composed(ranges[axis], before, outer, between)
            else:
                ranges[axis] = outer
        return Site((inner, root), (x, ranges))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        x, ranges = plan
        parameters = {
            "starts": [taken.start for taken in ranges.values()],
            "ends": [taken.end for taken in ranges.values()],
            "axes": list(ranges),
        }
        if any(taken.step != 1 for taken in ranges.values()):
            parameters["steps"] = [taken.step for taken in ranges.values()]
        return with_ints(op, "Slice", x, 10, **parameters)


def _ranges(node: ir.Node, rank: int | None) -> dict[int, _Range]:
    starts, ends = given_ints(node, "starts", 1), given_ints(node, "ends", 2)
    if starts is None or ends is None:
        raise NoSite
    axes = given_ints(node, "axes", 3) or list(range(len(starts)))
    if rank is not None:
        axes = [axis % rank for axis in axes]
    if min(axes, default=0) < 0:
        raise NoSite  # -1 and 3 might be one axis.
    steps = given_ints(node, "steps", 4) or [1] * len(starts)
    return dict(zip(axes, map(_Range, starts, ends, steps), strict=True))


def _composed(inner: _Range, before: Size, outer: _Range, between: Size) -> _Range:
    """What the outer range takes of the inner one's axis, of size ``before``."""
    if inner.step != 1 or outer.step != 1:
        raise Refused("two Slices of one axis have steps")
    # What is cut at the end only stays so if the outer Slice takes everything up to there.
    if inner.start >= 0 > inner.end and outer.start >= 0 and outer.end >= INT32_MAX:
        return _Range(inner.start + outer.start, inner.end, 1)
    inner, outer = inner.counted_from_first(before), outer.counted_from_first(between)
    return _Range(
        inner.start + outer.start, min(inner.end, inner.start + min(outer.end, INT32_MAX)), 1
    )


RULE = MergeSlices()


def _model(
    nodes: str, constants: str, x: str = "N, 8, H", opset: int = 13, out: str = "float[] z"
) -> str:
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g (float[{x}] x) => ({out}) <{constants}> {{ {nodes} }}"""


_TWO = "y = Slice(x, b, e, a) z = Slice(y, c, f, d)"
_ALL = "9223372036854775807"


def _ints(**numbers: str) -> str:
    return ", ".join(f"int64[{len(n.split(','))}] {name} = {{{n}}}" for name, n in numbers.items())


EXAMPLES = (
    _model(_TWO, _ints(b="1", e="6", a="1", c="1", f="4", d="1")),
    _model(_TWO, _ints(b="1", e="6", a="1", c="1", f=_ALL, d="-2")),
    _model(_TWO, _ints(b="2", e=_ALL, a="1", c="1", f="-1", d="1")),
    _model(_TWO, _ints(b="-6", e="-1", a="1", c="-3", f="-1", d="1")),
    _model(_TWO, _ints(b="1", e="-2", a="2", c="1", f=_ALL, d="2")),
    _model(_TWO, _ints(b="1", e="6", a="1", c="-3", f="2147483647", d="2")),
    _model(_TWO, _ints(b="1", e="6", a="0", c="1", f="3", d="0"), x="7, 8, H"),
    _model(
        "y = Slice(x, b, e, a, s) z = Slice(y, c, f, d)",
        _ints(b="7", e="0", a="1", s="-2", c="1", f="-1", d="2"),
    ),
    _model(
        "y = Slice <starts = [1, 0], ends = [6, 3]> (x) z = Slice <starts = [1], ends = [3]> (y)",
        "float u = {0}",
        x="7, 8, H",
        opset=9,
    ),
    _model(_TWO, _ints(b="1", e="3", a="1", c="5", f="9", d="1")),
)

NEAR_MISSES = (
    (_model(_TWO, _ints(b="1", e="6", a="2", c="-3", f="2147483647", d="2")), "not known"),
    (_model(_TWO, _ints(b="1", e="-1", a="2", c="0", f="2", d="2")), "not known"),
    (
        _model(
            "y = Slice(x, b, e, a, s) z = Slice(y, c, f, d)",
            _ints(b="0", e="8", a="1", s="2", c="1", f="3", d="1"),
        ),
        "steps",
    ),
    (
        _model(
            f"{_TWO} v = Relu(y)",
            _ints(b="1", e="6", a="1", c="1", f="4", d="1"),
            out="float[] z, float[] v",
        ),
        "also read",
    ),
    (
        _model(
            "g = Abs(b) y = Slice(x, g, e, a) z = Slice(y, c, f, d)",
            _ints(b="1", e="6", a="1", c="1", f="4", d="1"),
        ),
        "",
    ),
)
