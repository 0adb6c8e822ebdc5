"""Merge a Cast of a Cast where the type between them holds every value of the first.

    Cast(Cast(x: A, to B), to C)  =  Cast(x, to C)  =  x, where C is A

if each value of type A is one of type B: bool in any number type; integers in those of wider range;
float16 and bfloat16 in float and double, float in double; integers of up to 8, 16, 32 bits in
float16 (11 digits), float (24), double (53). Refused otherwise: it rounds or cuts on purpose.
"""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.layout import cast_type
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import is_only_read_by, producer

Plan = tuple[ir.Value, ir.DataType]

_T = ir.DataType
_FLOATS = {_T.FLOAT16, _T.BFLOAT16, _T.FLOAT, _T.DOUBLE}
_SIGNED = [_T.INT8, _T.INT16, _T.INT32, _T.INT64]
_UNSIGNED = [_T.UINT8, _T.UINT16, _T.UINT32, _T.UINT64]

_HOLDERS: dict[ir.DataType, set[ir.DataType]] = {
    _T.BOOL: {*_SIGNED, *_UNSIGNED, *_FLOATS},
    _T.INT8: {*_SIGNED, *_FLOATS},
    _T.UINT8: {*_UNSIGNED, *_SIGNED[1:], *_FLOATS},
    _T.INT16: {*_SIGNED[1:], _T.FLOAT, _T.DOUBLE},
    _T.UINT16: {*_UNSIGNED[1:], *_SIGNED[2:], _T.FLOAT, _T.DOUBLE},
    _T.INT32: {*_SIGNED[2:], _T.DOUBLE},
    _T.UINT32: {*_UNSIGNED[2:], _T.INT64, _T.DOUBLE},
    _T.INT64: {_T.INT64},
    _T.UINT64: {_T.UINT64},
    _T.FLOAT16: {_T.FLOAT16, _T.FLOAT, _T.DOUBLE},
    _T.BFLOAT16: {_T.BFLOAT16, _T.FLOAT, _T.DOUBLE},
    _T.FLOAT: {_T.FLOAT, _T.DOUBLE},
    _T.DOUBLE: {_T.DOUBLE},
}
"""The types that hold every value of a type; -128 to 255 in bfloat16 too, it has 8 digits."""


class MergeCasts(Rule[Plan]):
    """Cast(Cast(x)) -> Cast(x)."""

    name = "merge_casts"
    roots = frozenset(("Cast",))
    affine_in_weights = False
    minimum_opset = 6  # before, types were spelled as text

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        inner = producer(root.inputs[0], "Cast", graph=root.graph)
        x, between, last = inner.inputs[0], cast_type(inner), cast_type(root)
        if x is None or x.dtype is None or between is None or last is None:
            raise NoSite
        if between not in _HOLDERS.get(x.dtype, ()):
            raise Refused(f"a Cast from {x.dtype} to {between} may change values")
        if x.dtype != last and not is_only_read_by(inner.outputs[0], root):
            raise NoSite
        return Site((inner, root), (x, last))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        x, last = plan
        return x if x.dtype == last else op.Cast(x, to=last.value)

    def keeps(self, node: ir.Node) -> bool:
        return True


RULE = MergeCasts()


def _model(before: str, between: int, last: int, after: str, more: str = "") -> str:
    return f"""<ir_version: 8, opset_import: ["" : 13]> g ({before}[N, C] x) => ({after}[] z)
    {{ y = Cast <to = {between}> (x) z = Cast <to = {last}> (y) {more} }}"""


EXAMPLES = (
    _model("float", 11, 1, "float"),
    _model("float", 11, 6, "int32"),
    _model("float16", 1, 10, "float16"),
    _model("int32", 7, 6, "int32"),
    _model("int32", 11, 1, "float"),
    _model("uint8", 10, 1, "float"),
    _model("bool", 7, 1, "float"),
    _model("int64", 7, 1, "float"),
    _model("float", 11, 1, "float", "v = Abs(y)").replace("float[] z", "float[] z, double[] v"),
)

NEAR_MISSES = (
    (_model("float", 10, 1, "float"), "may change"),
    (_model("float", 7, 1, "float"), "may change"),
    (_model("double", 1, 11, "double"), "may change"),
    (_model("int64", 11, 7, "int64"), "may change"),
    (_model("int32", 1, 6, "int32"), "may change"),
    (_model("int64", 6, 7, "int64"), "may change"),
    (_model("float", 9, 1, "float"), "may change"),
    (_model("int8", 2, 3, "int8"), "may change"),
    (
        _model("float", 11, 6, "int32", "v = Abs(y)").replace("[] z", "[] z, double[] v"),
        "",
    ),
)
