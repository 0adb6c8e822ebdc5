"""Drop an addition of zeros or a multiplication by ones.

    x + 0  =  x - 0  =  x * 1  =  x / 1  =  x

Refused when it could widen x: the constant's rank must be at most that
of x, with size 1 in every dimension whose size in x is not known to be the same.
"""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import operands

_NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}


class DropNeutralConstant(Rule[ir.Value]):
    """x * 1 -> x."""

    name = "drop_neutral_constant"
    roots = frozenset(_NEUTRAL)
    affine_in_weights = False
    needs_shapes = True

    def find(self, root: ir.Node, opset: int) -> Site[ir.Value]:
        for x, other in operands(root):
            array = constant(other)
            is_neutral = array is not None and (array == _NEUTRAL[root.op_type]).all()
            commutes = root.op_type in ("Add", "Mul")
            if array is not None and is_neutral and (commutes or x is root.inputs[0]):
                _check_not_widened(x, array.shape)
                return Site((root,), x)
        raise NoSite

    def rewrite(self, op: Builder, plan: ir.Value) -> ir.Value:
        return op.Identity(plan)


def _check_not_widened(x: ir.Value, constant_shape: tuple[int, ...]) -> None:
    rank = len(constant_shape)
    if rank == 0:
        return
    if x.shape is None or rank > len(x.shape):
        raise Refused(f"the rank of '{x.name}' is unknown or lower, the constant might widen it")
    sizes = zip(constant_shape, x.shape[len(x.shape) - rank :], strict=True)
    if any(mine not in (1, theirs) for mine, theirs in sizes):
        raise Refused("the constant might widen its operand")


RULE = DropNeutralConstant()


def _model(node: str, constant: str, x: str = "float[N, 3, H, W] x") -> str:
    return f"""<ir_version: 8, opset_import: ["" : 13]>
    g ({x}) => (float[N, 3, H, W] z) <{constant}> {{ {node} }}"""


EXAMPLES = (
    _model("z = Mul(x, c)", "float[1] c = {1}"),
    _model("z = Add(c, x)", "float[3, 1, 1] c = {0, 0, 0}"),
    _model("z = Sub(x, c)", "float c = {0}"),
    _model("z = Div(x, c)", "float[1, 3, 1, 1] c = {1, 1, 1}"),
)

NEAR_MISSES = (
    (_model("z = Mul(x, c)", "float[3, 1, 1] c = {1, 1, 2}"), ""),
    (_model("z = Sub(c, x)", "float c = {0}"), ""),
    (_model("z = Add(x, c)", "float[1, 3, 1, 1] c = {0, 0, 0}", "float[N, 1, H, W] x"), "widen"),
    (_model("z = Add(x, c)", "float[3] c = {0, 0, 0}"), "widen"),
    (_model("z = Mul(x, c)", "float[1, 1, 1, 1, 1] c = {1}"), "widen"),
)
