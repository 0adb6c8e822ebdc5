"""Spell a mean over all spatial axes as GlobalAveragePool.

    ReduceMean(x; axes = all but batch and channels, keepdims = 1)  =  GlobalAveragePool(x)

ONNX Runtime computes GlobalAveragePool in its blocked layout and leaves that layout for ReduceMean.
Refused for other axes, without keepdims, and when x is not known to have rank 4 or 5: the mean of a
sequence (N, S, C) is mostly the start of a layer normalization, which ONNX Runtime must recognize.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.constants import rank_of, required
from advconv_onnx.rewriter.rule import Refused, Rule, Site


class SpellGlobalPool(Rule):
    """ReduceMean over H and W -> GlobalAveragePool."""

    name = "spell_global_pool"
    affine_in_weights = False

    def patterns(self) -> Iterable[Callable[..., Any]]:
        def pattern(op: Any, x: Any) -> Any:
            return op.ReduceMean(x, _allow_other_inputs=True, _allow_other_attributes=True)

        return [pattern]

    def check(self, site: Site) -> None:
        node = site.root
        rank = rank_of(site["x"])
        if rank not in (4, 5):
            raise Refused(f"the rank of '{site['x'].name}' is {rank or 'unknown'}")
        if not node.attributes.get_int("keepdims", 1):
            raise Refused("keepdims is 0")
        if len(node.inputs) > 1 and node.inputs[1] is not None:
            axes = required(node.inputs[1], "axes").tolist()
        else:
            axes = list(node.attributes.get_ints("axes", ()))
        if sorted(int(axis) % rank for axis in axes) != list(np.arange(2, rank)):
            raise Refused(f"the axes are {axes}, not all spatial ones")

    def rewrite(self, op: Any, site: Site, plan: None) -> ir.Value:
        result: ir.Value = op.GlobalAveragePool(site["x"])
        return result


RULE = SpellGlobalPool()


def _model(node: str, opset: int = 18, x: str = "float[N, 3, H, W] x") -> str:
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g ({x}) => (float[] z) <int64[2] a = {{-1, 2}}, int64[1] c = {{1}}> {{ {node} }}"""


EXAMPLES = (
    _model("z = ReduceMean(x, a)"),
    _model("z = ReduceMean <axes = [2, 3]> (x)", opset=13),
    _model("z = ReduceMean <axes = [2, 3, 4]> (x)", opset=13, x="float[N, 3, D, H, W] x"),
)

NEAR_MISSES = (
    (_model("z = ReduceMean(x, c)"), "not all spatial"),
    (_model("z = ReduceMean(x)"), "not all spatial"),
    (_model("z = ReduceMean <keepdims = 0> (x, a)"), "keepdims"),
    (_model("z = ReduceMean(x, a)", x="float[N, S, C] x"), "rank of 'x' is 3"),
)
