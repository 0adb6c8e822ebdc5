"""Merge a chain of constant scales and shifts into one Mul, one Add, or one of each.

    (x + a) - b = x + (a - b)       (x * a) / b = x * (a / b)       (x + a) * b = x * b + a b

for Add, Sub, Mul and Div with floating-point constants of any shapes that broadcast, when the chain
has more nodes than the result. Refused when the merged constants would have more elements than the
largest of the chain, are not finite, or lose a number to rounding to zero; an inner value that
something else reads begins the chain.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import is_only_read_by, maker, only_reader, varying

_ELEMENTS = ("Add", "Sub", "Mul", "Div")

_LONGEST = 6
"""Elements of a chain read at once, so that products of integers stay exact in its proof."""


@dataclasses.dataclass(frozen=True)
class _Broadcast:
    """``y = scale * x + shift`` with arrays of any shapes, float64; None for no such operation."""

    scale: NDArray[Any] | None
    shift: NDArray[Any] | None

    @property
    def nodes(self) -> int:
        """Nodes it takes."""
        return (self.scale is not None) + (self.shift is not None)

    def then(self, after: _Broadcast) -> _Broadcast:
        """This one, followed by another."""
        shift = self.shift
        if shift is not None and after.scale is not None:
            shift = shift * after.scale
        scale = _combined(np.multiply, self.scale, after.scale)
        if scale is not None and scale.ndim == 0 and scale == 1:
            scale = None
        return _Broadcast(scale, _combined(np.add, shift, after.shift))


Plan = tuple[ir.Value, _Broadcast]


class MergeConstants(Rule[Plan]):
    """Mul(Mul(x, a), b) -> Mul(x, a * b)."""

    name = "merge_constants"
    roots = frozenset(_ELEMENTS)

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        reader = only_reader(root.outputs[0])
        if reader is not None and reader.graph is root.graph and _read(reader) is not None:
            raise NoSite  # The whole chain is read from its end.
        merged = _read(root)
        if merged is None:
            raise NoSite
        nodes, x = [root], varying(root)
        sizes = [_size(root)]
        while len(nodes) < _LONGEST and is_only_read_by(x, nodes[0]):
            node = maker(x, *_ELEMENTS, graph=root.graph)
            affine = None if node is None else _read(node)
            if node is None or affine is None:
                break
            merged, nodes, x = affine.then(merged), [node, *nodes], varying(node)
            sizes.append(_size(node))
        if merged.nodes >= len(nodes):
            raise NoSite
        _check(merged, max(sizes), x)
        return Site(tuple(nodes), (x, merged))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        value, merged = plan
        assert value.dtype is not None
        dtype = value.dtype.numpy()
        if merged.scale is not None:
            value = op.Mul(value, op.initializer(merged.scale.astype(dtype), "scale"))
        if merged.shift is not None:
            value = op.Add(value, op.initializer(merged.shift.astype(dtype), "shift"))
        return value


def _read(node: ir.Node) -> _Broadcast | None:
    """One element of a chain; None for a node that is none."""
    if node.domain or node.op_type not in _ELEMENTS:
        return None
    try:
        x = varying(node)
    except NoSite:
        return None
    is_first = node.inputs[0] is x
    array = constant(node.inputs[1 if is_first else 0])
    if array is None or not np.issubdtype(array.dtype, np.floating) or x.dtype is None:
        return None
    numbers = array.astype(np.float64)
    match node.op_type, is_first:
        case "Add", _:
            return _Broadcast(None, numbers)
        case "Sub", True:
            return _Broadcast(None, -numbers)
        case "Sub", False:
            return _Broadcast(np.array(-1.0), numbers)
        case "Mul", _:
            return _Broadcast(numbers, None)
        case "Div", True if numbers.all():
            return _Broadcast(1 / numbers, None)
    return None


def _size(node: ir.Node) -> int:
    arrays = (constant(value) for value in node.inputs)
    return max(array.size for array in arrays if array is not None)


def _combined(
    function: np.ufunc, one: NDArray[Any] | None, other: NDArray[Any] | None
) -> NDArray[Any] | None:
    if one is None or other is None:
        return other if one is None else one
    try:
        combined: NDArray[Any] = function(one, other)
    except ValueError as error:
        raise NoSite from error  # They do not broadcast: the model does not run.
    return combined


def _check(merged: _Broadcast, largest: int, x: ir.Value) -> None:
    assert x.dtype is not None
    dtype = x.dtype.numpy()
    for array in (merged.scale, merged.shift):
        if array is None:
            continue
        if array.size > largest:
            raise Refused(f"the merged constant has {array.size} elements, more than {largest}")
        with np.errstate(over="ignore", under="ignore"):
            rounded = array.astype(dtype)
        if not np.isfinite(rounded).all():
            raise Refused(f"a merged constant is not finite in {dtype}")
        if (np.abs(array[array != 0]) < np.finfo(dtype).tiny).any():
            raise Refused(f"a merged constant is not a normal number in {dtype}")


RULE = MergeConstants()


def _model(nodes: str, constants: str = "float c = {0.5}", x: str = "float[N, 3, H, W] x") -> str:
    fixed = "float a = {2.5}, float[1] b = {-3}, float[3, 1, 1] k = {1, -2, 3}"
    return f"""<ir_version: 8, opset_import: ["" : 15]>
    g ({x}) => (float[] z) <{fixed}, {constants}> {{ {nodes} }}"""


EXAMPLES = (
    _model("y = Mul(x, a) z = Div(y, k)"),
    _model("y = Add(b, x) z = Sub(y, k)"),
    _model("y = Sub(x, a) z = Add(y, c)", "float[4] c = {1, 2, 3, 4}", "float[N, 3, H, 4] x"),
    _model("u = Add(x, a) v = Mul(u, k) w = Sub(b, v) z = Div(w, a)", x="float[1, L] x"),
    _model("y = Sub(a, x) z = Sub(b, y)", x="float x"),
    # Constants wider than the tensor.
    _model("y = Mul(x, a) z = Mul(y, k)", x="float[N] x"),
    _model("u = Add(x, a) v = Mul(u, k) w = Add(v, u) r = Mul(w, k) z = Mul(r, b)"),
)

NEAR_MISSES = (
    (_model("y = Mul(x, a) z = Add(y, k)"), ""),
    (
        _model("y = Mul(x, k) z = Mul(y, c)", "float[4] c = {1, 2, 3, 4}", "float[N, 3, H, 4] x"),
        "12 elements",
    ),
    (_model("y = Mul(x, c) z = Mul(y, c)", "float c = {1e30}"), "not finite"),
    (_model("y = Mul(x, c) z = Mul(y, c)", "float c = {1e-20}"), "not a normal number"),
    (_model("y = Mul(x, a) v = Mul(y, a) z = Add(v, y)"), ""),
    (_model("y = Div(a, x) z = Div(y, a)"), ""),
    (_model("y = Mul(x, x) z = Mul(y, a)"), ""),
    (
        """<ir_version: 8, opset_import: ["" : 15]> g (int64[N] x) => (int64[N] z)
        <int64 a = {2}> { y = Mul(x, a) z = Div(y, a) }""",
        "",
    ),
)
