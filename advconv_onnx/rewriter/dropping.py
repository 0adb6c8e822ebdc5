"""Rules that drop an operator whose first input is its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.rule import NoSite, Rule, Site


class DropRule(Rule[ir.Value]):
    """Drops the operators that a predicate says change nothing.

    Attributes:
        changes_nothing: for each operator type, whether a node of it is superfluous.
    """

    affine_in_weights = False
    changes_nothing: ClassVar[Mapping[str, Callable[[ir.Node], bool]]]

    def find(self, root: ir.Node, opset: int) -> Site[ir.Value]:
        """The one node."""
        x = root.inputs[0]
        if x is None or not self.changes_nothing[root.op_type](root):
            raise NoSite
        return Site((root,), x)

    def rewrite(self, op: Builder, plan: ir.Value) -> ir.Value:
        """Its first input."""
        return plan
