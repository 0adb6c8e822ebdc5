"""A small rule for tests of what carries rules: two additions of constants become one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.proposal import Proposal, Refusal, propose
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import producer
from tests.parsing import normal, parse

Sum = tuple[ir.Value, np.ndarray]

TWO = "[one] y = Add(x, a) [two] z = Add(y, b)"


class MergeAdditions(Rule[Sum]):
    """(x + a) + b -> x + (a + b)."""

    name = "merge_additions"
    roots = frozenset(("Add",))

    def find(self, root: ir.Node, opset: int) -> Site[Sum]:
        """Read constants on the right only."""
        first = producer(root.inputs[0], "Add")
        a, b = constant(first.inputs[1]), constant(root.inputs[1])
        if a is None:
            raise NoSite
        if b is None:
            raise Refused("b is not constant")
        assert first.inputs[0] is not None
        return Site((first, root), (first.inputs[0], a + b))

    def rewrite(self, op: Builder, plan: Sum) -> ir.Value:
        """One addition."""
        x, array = plan
        return op.Add(x, op.initializer(array, "a"))


def additions(nodes: str, outputs: str = "float[N, 3, H, W] z", **constants: Any) -> ir.Model:
    """A model of x (N, 3, H, W) with the constants ``a`` and ``b``."""
    given = {"a": np.float32(2), "b": normal(3, 1, 1), **constants}
    head = '<ir_version: 8, opset_import: ["" : 15]> g (float[N, 3, H, W] x)'
    return parse(f"{head} => ({outputs}) {{ {nodes} }}", **given)


def outcome(rule: Rule[Any], model: ir.Model) -> Proposal | Refusal | None:
    """What comes of a rule in a model where it has one site at most."""
    opset = model.opset_imports[""]
    found = [propose(rule, node, opset) for node in model.graph]
    results = [result for result in found if result is not None]
    assert len(results) < 2
    return results[0] if results else None


def proposal(rule: Rule[Any], model: ir.Model) -> Proposal:
    """The one proposal of a rule."""
    result = outcome(rule, model)
    assert isinstance(result, Proposal)
    return result


def refusal(rule: Rule[Any], model: ir.Model) -> Refusal:
    """The one refusal of a rule."""
    result = outcome(rule, model)
    assert isinstance(result, Refusal)
    return result
