"""Make the computed target of a Reshape or Expand a constant, though some sizes are dynamic.

    Reshape(x, [Shape(x)[0], 4, Shape(x)[2]])  =  Reshape(x, [0, 4, 0])
    Reshape(x, [Shape(x)[0] * 2, 4])           =  Reshape(x, [-1, 4])
    Expand(x, [Shape(x)[0], 4, 1])             =  Expand(x, [1, 4, 1])

A size that x has at the same place is kept, one that is not known is what is left. Refused where
two would be left, where one would be left beside a dynamic size (an empty tensor could then not be
reshaped), and where sizes of other tensors are used. The expression stays for other readers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.layout import Size, Sizes, sizes_of, target_of
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.shapes import Number, Numbers, numbers_of
from advconv_onnx.rewriter.walk import input_of


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A Reshape or Expand of ``x``, and its constant target."""

    node: ir.Node
    x: ir.Value
    target: tuple[int, ...]


class FoldTarget(Rule[_Plan]):
    """Reshape(x, Concat(Shape(x))) -> Reshape(x, constant)."""

    name = "fold_target"
    roots = frozenset(("Reshape", "Expand"))
    affine_in_weights = False
    needs_shapes = True
    minimum_opset = 5

    def find(self, root: ir.Node, opset: int) -> Site[_Plan]:
        x, given = root.inputs[0], input_of(root, 1)
        keeps_zero = root.attributes.get_int("allowzero", 0)
        if x is None or constant(given) is not None or keeps_zero:
            raise NoSite
        wanted = numbers_of(given, root.graph)
        # Without a rank no size can be kept.
        sizes = sizes_of(x) if x.shape is not None else ()
        if root.op_type == "Reshape":
            _check_known(wanted, sizes)
        target = _target if root.op_type == "Reshape" else _expansion
        plan = _Plan(root, x, target(wanted.items, sizes))
        return Site((*wanted.nodes, root), plan)

    def rewrite(self, op: Builder, plan: _Plan) -> ir.Value:
        target = op.initializer(np.array(plan.target, np.int64), "shape")
        return op.node(plan.node.op_type, [plan.x, target], {}).outputs[0]

    def keeps(self, node: ir.Node) -> bool:
        return True


def _check_known(wanted: Numbers, sizes: Sizes) -> None:
    """Check that all sizes are of ``sizes``: that others are equal cannot be proved on the site."""
    read = (sizes_of(node.inputs[0]) for node in wanted.nodes if node.op_type in ("Shape", "Size"))
    names = {size for found in read for size in found if isinstance(size, str)}
    if not names.issubset(sizes):
        raise Refused("it is not known which sizes of two tensors are equal")


def _target(wanted: Sequence[Number], sizes: Sizes) -> tuple[int, ...]:
    named: list[Size] = ["!" if size is None else size for size in wanted]
    # 0 asks for what x has there.
    kept = [
        sizes[axis] if size == 0 and axis < len(sizes) else size for axis, size in enumerate(named)
    ]
    found = target_of(tuple(kept), sizes)
    if found.divides and -1 not in wanted:
        raise Refused("an empty tensor could not be reshaped")
    return found.shape


def _expansion(wanted: Sequence[Number], sizes: Sizes) -> tuple[int, ...]:
    own = (*[""] * (len(wanted) - len(sizes)), *sizes[max(len(sizes) - len(wanted), 0) :])
    target = [
        size if isinstance(size, int) else 1 if size == kept else None
        for size, kept in zip(wanted, own, strict=True)
    ]
    if None in target:
        raise Refused("a size to expand to is not known")
    return tuple(size for size in target if size is not None)


RULE = FoldTarget()


def _model(
    nodes: str, x: str = "N, 3, H, W", constants: str = "int64[1] one = {1}", opset: int = 13
) -> str:
    return f"""<ir_version: 8, opset_import: ["" : {opset}]> g (float[{x}] x) => (float[] z)
    <{constants}, int64 first = {{0}}, int64[1] zero = {{0}}, int64[1] two = {{2}},
     int64[1] four = {{4}}, int64[1] rest = {{-1}}> {{ {nodes} }}"""


_HEAD = "s = Shape(x) h = Slice(s, zero, two)"

EXAMPLES = (
    _model(f"{_HEAD} t = Concat <axis = 0> (h, rest) z = Reshape(x, t)"),
    _model("s = Shape(x) z = Reshape(x, s)", "N, C, H"),
    _model(
        "s = Shape(x) n = Gather(s, first) m = Unsqueeze(n, zero)"
        " t = Concat <axis = 0> (m, four, two) z = Reshape(x, t)",
        "N, 8",
    ),
    _model(
        "s = Shape(x) n = Gather(s, zero) m = Mul(n, four) t = Concat <axis = 0> (m, two)"
        " z = Reshape(x, t)",
        "N, 8",
    ),
    _model(
        "s = Shape(x) c = Cast <to = 6> (s) n = Slice(c, zero, one) m = Cast <to = 7> (n)"
        " t = Concat <axis = 0> (m, one, rest) z = Reshape(x, t)",
        "N, C, 4",
    ),
    _model(
        "s = Shape(x) n = Gather(s, first) m = Unsqueeze <axes = [0]> (n)"
        " t = Concat <axis = 0> (m, rest) z = Reshape(x, t)",
        "N, H, 4",
        opset=11,
    ),
    _model("s = Shape(x) z = Expand(x, s)", "N, 1, W"),
    _model(
        "s = Shape(x) n = Slice(s, zero, one) t = Concat <axis = 0> (n, four, one)"
        " z = Expand(x, t)",
        "N, 1, W",
    ),
    # As torch spells expand(-1, 4): what is -1 keeps its size.
    _model(
        "s = Shape(x) o = Equal(t, rest) u = Where(o, s, t) z = Expand(x, u)",
        "N, 1",
        "int64[1] one = {1}, int64[2] t = {-1, 4}",
    ),
)

NEAR_MISSES = (
    (_model(f"{_HEAD} t = Concat <axis = 0> (rest, h) z = Reshape(x, t)", "N, C, H, W"), "two"),
    (
        _model(
            "s = Shape(x) n = Slice(s, one, two) t = Concat <axis = 0> (n, zero, two)"
            " z = Reshape(x, t)",
            "N, C, 2",
        ),
        "empty",
    ),
    (
        _model(
            "s = Shape(x) n = Slice(s, zero, one) m = Slice(s, one, two) k = Mul(m, two)"
            " t = Concat <axis = 0> (n, k) z = Reshape(x, t)",
            "N, C, 2",
        ),
        "empty",
    ),
    (_model("s = Shape(x) t = Mul(s, two) z = Expand(x, t)", "N, 1"), "not known"),
    (
        _model(
            "y = NonZero(x) s = Shape(y) n = Slice(s, one, two) t = Concat <axis = 0> (n, rest)"
            " z = Reshape(x, t)",
            "N, 3",
        ),
        "two tensors",
    ),
    (_model("z = Reshape(x, one)", "1"), ""),
    (_model("z = Reshape <shape = [1, 3]> (x)", "1, 3", opset=4), ""),
    (_model("s = Shape(x) z = Reshape <allowzero = 1> (x, s)", "N, C", opset=14), ""),
)
