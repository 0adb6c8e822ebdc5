"""Run a Softmax between two Transpose with all axes behind merged into one.

    Transpose(Softmax(Transpose(x))) over axis k of x
        =  Reshape(Softmax(Reshape(x, (..., C, -1)); k), shape of x)

where the second Transpose undoes the first, as exporters wrote a Softmax per pixel before opset 13.
Since then ONNX Runtime moves the Transpose away itself and runs the Softmax over a strided axis,
slowly; see ``spell_strided_softmax``. Before, where Softmax must run over the last axis, the merged
axes are transposed instead of the (N, C, H, W): 1.1 to 11 times faster, measured, for the usual
perm that swaps two axes; one that moves a single axis is as fast. Refused when fewer than two axes
are behind axis k, and when an intermediate value is read elsewhere.
"""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.layout import permutation, sizes_of
from advconv_onnx.rewriter.rule import NoSite, Rule, Site
from advconv_onnx.rewriter.softmax import (
    ONE_AXIS,
    has_axes_to_merge,
    softmax_before_merged_axes,
)
from advconv_onnx.rewriter.walk import producer

Plan = tuple[ir.Value, str, int]


class SpellTransposedSoftmax(Rule[Plan]):
    """Transpose(Softmax(Transpose(x))) -> Reshape(Softmax(Reshape(x)))."""

    name = "spell_transposed_softmax"
    roots = frozenset(("Transpose",))
    affine_in_weights = False

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        softmax = producer(root.inputs[0], "Softmax", "LogSoftmax", graph=root.graph)
        first = producer(softmax.inputs[0], "Transpose", graph=root.graph)
        x = first.inputs[0]
        sizes = sizes_of(x)
        perm, back = permutation(first), permutation(root)
        if x is None or tuple(perm[axis] for axis in back) != tuple(range(len(sizes))):
            raise NoSite
        rank = len(sizes)
        default = -1 if opset >= ONE_AXIS else 1
        axis = softmax.attributes.get_int("axis", default) % rank
        if opset < ONE_AXIS and (axis != rank - 1 or not _swaps_two(perm)):
            raise NoSite
        if not has_axes_to_merge(sizes, perm[axis]):
            raise NoSite
        return Site((first, softmax, root), (x, softmax.op_type, perm[axis]))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        x, op_type, axis = plan
        return softmax_before_merged_axes(op, op_type, x, axis)


def _swaps_two(perm: tuple[int, ...]) -> bool:
    return sum(axis != position for position, axis in enumerate(perm)) == 2


RULE = SpellTransposedSoftmax()


def _model(
    first: str, softmax: str, second: str, opset: int = 11, x: str = "N, 4, H, W", out: str = "z"
) -> str:
    outputs = ", ".join(f"float[] {name}" for name in out.split())
    return f"""<ir_version: 8, opset_import: ["" : {opset}]> g (float[{x}] x) => ({outputs}) {{
        a = Transpose <perm = {first}> (x)
        b = {softmax} (a)
        z = Transpose <perm = {second}> (b)
    }}"""


_SWAP, _MOVE, _BACK = "[0, 3, 2, 1]", "[0, 2, 3, 1]", "[0, 3, 1, 2]"

EXAMPLES = (
    _model(_SWAP, "Softmax <axis = 3>", _SWAP),
    _model(_SWAP, "LogSoftmax <axis = -1>", _SWAP),
    _model(_SWAP, "Softmax", _SWAP, 13),
    _model(_MOVE, "Softmax <axis = -1>", _BACK, 13, "2, 4, 5, 6"),
    _model(_MOVE, "Softmax <axis = 3>", _BACK, 18),
    _model("[0, 1, 4, 3, 2]", "Softmax <axis = 4>", "[0, 1, 4, 3, 2]", 9, "N, 4, 3, H, W"),
)

NEAR_MISSES = (
    # Before opset 13 these run over several axes.
    (_model(_SWAP, "Softmax", _SWAP), ""),
    (_model(_SWAP, "Softmax <axis = 2>", _SWAP, 9), ""),
    # As fast already.
    (_model(_MOVE, "Softmax <axis = 3>", _BACK), ""),
    (_model(_MOVE, "Softmax <axis = 3>", _MOVE, 13), ""),
    (_model("[0, 1, 3, 2]", "Softmax <axis = 3>", "[0, 1, 3, 2]", 13), ""),
    (_model(_SWAP, "Softmax <axis = 3>", _SWAP, 13, "N, 4, 1, 1"), ""),
    (_model(_SWAP, "Softmax <axis = 3>", _SWAP, out="z b"), "also an output"),
    (_model(_SWAP, "Relu", _SWAP), ""),
)
