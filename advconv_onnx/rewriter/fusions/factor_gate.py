"""Take a residual around a gate into the gate.

    x + x * g  =  x * (g + 1)

where the gate g, as in squeeze-and-excite blocks, has one value per channel: the addition then runs
over C values and not over C * H * W. Refused unless g is known to have size 1 in every spatial axis
(otherwise nothing is saved), and when x * g is read elsewhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.rule import Refused, Rule, Site


class FactorGate(Rule):
    """x + x * g -> x * (g + 1)."""

    name = "factor_gate"

    def patterns(self) -> Iterable[Callable[..., Any]]:
        def pattern_of(outer: bool, inner: bool) -> Callable[..., Any]:
            def pattern(op: Any, x: Any, g: Any) -> Any:
                product = op.Mul(*((g, x) if inner else (x, g)))
                return op.Add(*((product, x) if outer else (x, product)))

            return pattern

        return itertools.starmap(pattern_of, itertools.product((False, True), repeat=2))

    def check(self, site: Site) -> np.ndarray:
        x, gate = site["x"], site["g"]
        if gate.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE):
            raise Refused(f"the type of '{gate.name}' is {gate.dtype}")
        if x.shape is None or gate.shape is None or len(x.shape) != len(gate.shape):
            raise Refused(f"the shapes of '{x.name}' and '{gate.name}' are not known to fit")
        if len(x.shape) < 3 or any(size != 1 for size in gate.shape[2:]):
            raise Refused(f"'{gate.name}' is not one value per channel")
        for mine, theirs in zip(gate.shape[:2], x.shape[:2], strict=True):
            if mine != 1 and mine != theirs:
                raise Refused(f"'{gate.name}' might widen '{x.name}'")
        return np.ones((), gate.dtype.numpy())

    def rewrite(self, op: Any, site: Site, plan: np.ndarray) -> ir.Value:
        one = op.initializer(plan, "one")
        result: ir.Value = op.Mul(site["x"], op.Add(site["g"], one))
        return result


RULE = FactorGate()


def _model(nodes: str, gate: str = "float[N, 3, 1, 1] g") -> str:
    return f"""<ir_version: 8, opset_import: ["" : 13]>
    g (float[N, 3, H, W] x, {gate}) => (float[N, 3, H, W] z) {{ {nodes} }}"""


EXAMPLES = (
    _model("a = Mul(x, g) z = Add(x, a)"),
    _model("a = Mul(g, x) z = Add(a, x)", "float[1, 3, 1, 1] g"),
)

NEAR_MISSES = (
    (_model("a = Mul(x, g) z = Add(x, a)", "float[N, 3, H, W] g"), "one value per channel"),
    (_model("a = Mul(x, g) z = Add(x, a)", "float[M, 3, 1, 1] g"), "might widen"),
    (_model("a = Mul(x, g) z = Add(g, a)"), "one value per channel"),
)
