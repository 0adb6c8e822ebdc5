"""Merge a Transpose of a Transpose, or drop both.

    Transpose(Transpose(x, p), q)  =  Transpose(x, p[q])  =  x, where p[q] is the identity

The inner one stays for other readers when the outer one can be dropped; otherwise nothing would be
gained, and the site is left alone.
"""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.layout import permutation
from advconv_onnx.rewriter.rule import NoSite, Rule, Site
from advconv_onnx.rewriter.walk import is_only_read_by, producer

Plan = tuple[ir.Value, tuple[int, ...]]


class MergeTransposes(Rule[Plan]):
    """Transpose(Transpose(x)) -> Transpose(x)."""

    name = "merge_transposes"
    roots = frozenset(("Transpose",))
    affine_in_weights = False

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        inner = producer(root.inputs[0], "Transpose", graph=root.graph)
        x = inner.inputs[0]
        assert x is not None
        first = permutation(inner)
        perm = tuple(first[axis] for axis in permutation(root))
        if not _is_identity(perm) and not is_only_read_by(inner.outputs[0], root):
            raise NoSite
        return Site((inner, root), (x, perm))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        x, perm = plan
        return x if _is_identity(perm) else op.Transpose(x, perm=perm)

    def keeps(self, node: ir.Node) -> bool:
        return True


def _is_identity(perm: tuple[int, ...]) -> bool:
    return perm == tuple(range(len(perm)))


RULE = MergeTransposes()


def _model(nodes: str, x: str = "N, C, H, W", out: str = "float[] z") -> str:
    return f"""<ir_version: 8, opset_import: ["" : 13]> g (float[{x}] x) => ({out}) {{ {nodes} }}"""


_TO_LAST, _TO_FIRST = "Transpose <perm = [0, 2, 3, 1]>", "Transpose <perm = [0, 3, 1, 2]>"

EXAMPLES = (
    _model(f"y = {_TO_LAST} (x) z = {_TO_FIRST} (y)"),
    _model(f"y = {_TO_LAST} (x) z = {_TO_LAST} (y)"),
    _model("y = Transpose <perm = [1, 2, 0]> (x) z = Transpose(y)", "A, B, C"),
    _model("y = Transpose(x) z = Transpose(y)", "A, B"),
    _model(f"y = {_TO_LAST} (x) z = {_TO_FIRST} (y) v = Relu(y)", out="float[] z, float[] v"),
    _model(f"y = {_TO_LAST} (x) z = {_TO_FIRST} (y)", out="float[] z, float[] y"),
)

NEAR_MISSES = (
    (
        _model(f"y = {_TO_LAST} (x) z = {_TO_LAST} (y) v = Relu(y)", out="float[] z, float[] v"),
        "",
    ),
    (_model(f"y = {_TO_LAST} (x) z = {_TO_LAST} (y)", out="float[] z, float[] y"), ""),
    (_model(f"y = {_TO_LAST} (x) v = Softmax(y) z = {_TO_FIRST} (v)"), ""),
    (_model(f"z = {_TO_LAST} (x)"), ""),
)
