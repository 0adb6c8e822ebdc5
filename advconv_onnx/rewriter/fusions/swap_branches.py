"""Drop the Not before an If by swapping its branches.

    If(Not(c), A, B)  =  If(c, B, A)

One node fewer. The branches are copied as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.rule import Rule, Site
from advconv_onnx.rewriter.walk import producer


@dataclasses.dataclass(frozen=True)
class SwapPlan:
    """An If whose condition is negated."""

    node: ir.Node
    condition: ir.Value


class SwapBranches(Rule[SwapPlan]):
    """If with the branches swapped; its condition may be negated for others too."""

    name = "swap_branches"
    roots = frozenset({"If"})
    affine_in_weights = False

    def find(self, root: ir.Node, opset: int) -> Site[SwapPlan]:
        """Read the If and the Not that makes its condition."""
        negation = producer(root.inputs[0], "Not", graph=root.graph)
        condition = negation.inputs[0]
        assert condition is not None
        return Site((negation, root), SwapPlan(root, condition), tuple(root.outputs))

    def rewrite(self, op: Builder, plan: SwapPlan) -> Sequence[ir.Value]:
        """Build the If again with copies of its bodies."""
        bodies = {
            name: plan.node.attributes[name].as_graph().clone(allow_outer_scope_values=True)
            for name in ("then_branch", "else_branch")
        }
        swapped = {"then_branch": bodies["else_branch"], "else_branch": bodies["then_branch"]}
        return op.node("If", [plan.condition], swapped, len(plan.node.outputs)).outputs

    def keeps(self, node: ir.Node) -> bool:
        """A Not that something else reads stays."""
        return node.op_type == "Not"


RULE = SwapBranches()

_CONSTANTS = "<float[4] w = {1, -2, 3, 4}, float[4] v = {2, 1, -1, 0.5}>"

_EXAMPLE = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4] x, bool p) => (float[N, 4] y) %s {
        c = Not(p)
        h = Tanh(x)
        y = If (c) <then_branch = t () => (float[N, 4] a) { k = Mul(h, w) a = Add(k, v) },
                    else_branch = e () => (float[N, 4] b) { b = Sub(x, v) }>
    }"""

EXAMPLES = (
    _EXAMPLE % _CONSTANTS,
    (_EXAMPLE % _CONSTANTS).replace('"" : 17', '"" : 11'),
    # The Not is read elsewhere and stays.
    (_EXAMPLE % _CONSTANTS)
    .replace("(float[N, 4] y)", "(float[N, 4] y, bool q)")
    .replace("h = Tanh(x)", "h = Tanh(x) q = And(c, c)"),
    # Two results; a constant of a branch; an If in a branch, whose condition is not negated.
    """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4] x, bool p) => (float[N, 4] y, float[N, 4] z) {
        c = Not(p)
        y, z = If (c) <
            then_branch = t () => (float[N, 4] a, float[N, 4] d) <float[4] w = {1, -2, 3, 4}> {
                a = Add(x, w)
                d = If (p) <then_branch = t2 () => (float[N, 4] m) { m = Neg(a) },
                            else_branch = e2 () => (float[N, 4] n) { n = Abs(a) }>
            },
            else_branch = e () => (float[N, 4] b, float[N, 4] f) { b = Neg(x) f = Exp(x) }>
    }""",
)

NEAR_MISSES = (
    # Not negated.
    ((_EXAMPLE % _CONSTANTS).replace("Not(p)", "And(p, p)"), ""),
    # Negated outside of the body that the If is in.
    (
        """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4] x, bool p, bool q) => (float[N, 4] y) {
        c = Not(p)
        y = If (q) <then_branch = t () => (float[N, 4] a) {
                a = If (c) <then_branch = t2 () => (float[N, 4] m) { m = Neg(x) },
                            else_branch = e2 () => (float[N, 4] n) { n = Abs(x) }> },
            else_branch = e () => (float[N, 4] b) { b = Exp(x) }>
    }""",
        "",
    ),
)
