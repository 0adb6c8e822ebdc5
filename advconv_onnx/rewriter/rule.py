"""What a rewrite rule is: it reads the site that ends in a node, and builds a replacement.

A rule is a subclass of ``Rule`` in ``fusions/``. It walks from a root node to the nodes above it
with the helpers of ``walk``, refuses with a reason, and hands a plan from ``find`` to ``rewrite``.
Rules keep no state, know nothing of clocks or sessions, and never change a graph: ``proposal``
turns what they build into a change, and the optimizer proves it before it is made.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder

Plan = TypeVar("Plan")


class Refused(Exception):
    """A site looks like a rule's and must not be rewritten; the message says why."""


class NoSite(Exception):
    """What a rule looked at is something else: nothing worth reporting."""


@dataclasses.dataclass(frozen=True)
class Site(Generic[Plan]):
    """A place in a graph that a rule can rewrite.

    Attributes:
        nodes: the nodes to replace, each after those it reads, the root last.
        plan: whatever ``rewrite`` needs.
        outputs: the values that get a replacement; by default the root's first output.
    """

    nodes: tuple[ir.Node, ...]
    plan: Plan
    outputs: tuple[ir.Value, ...] = ()

    @property
    def root(self) -> ir.Node:
        """The last node."""
        return self.nodes[-1]

    @property
    def replaced(self) -> tuple[ir.Value, ...]:
        """The values that get a replacement."""
        return self.outputs or (self.root.outputs[0],)


class Rule(abc.ABC, Generic[Plan]):
    """One rewrite; stateless, so one instance serves all graphs.

    Attributes:
        name: the rule's name in reports: a verb phrase, the name of its file.
        roots: operator types (of the default domain) that a site of this rule ends in.
        affine_in_weights: weights may be replaced by any numbers of the same shape and the rewrite
            still holds, so that integers can prove it exactly. False where it depends on particular
            constants, such as the 3 and 6 of a hard-swish.
        needs_shapes: the rewrite relies on sizes the model fixes, so that a proof must keep them.
        minimum_opset: first opset that has all operators the replacement uses.
        providers: names of the execution providers whose kernels make the replacement faster, where
            it may be slower on others; none means all.
    """

    name: str
    roots: ClassVar[frozenset[str]]
    affine_in_weights: ClassVar[bool] = True
    needs_shapes: ClassVar[bool] = False
    minimum_opset: ClassVar[int] = 1
    providers: ClassVar[frozenset[str]] = frozenset()

    @abc.abstractmethod
    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        """Read the site that ends in ``root``, whose operator type is one of ``roots``.

        Raises:
            Refused: the site must not be rewritten.
            NoSite: this is no site of the rule.
        """

    @abc.abstractmethod
    def rewrite(self, op: Builder, plan: Plan) -> ir.Value | Sequence[ir.Value]:
        """Build the replacement and return a value for each of the site's outputs."""

    def keeps(self, node: ir.Node) -> bool:
        """Whether a node of a site may stay behind for other readers (then it is not merged)."""
        return False
