"""Mutants of swap_branches, and what a site with bodies looks like when it is cut out."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.cut import cut
from advconv_onnx.rewriter.fusions.swap_branches import EXAMPLES, RULE, SwapBranches, SwapPlan
from advconv_onnx.rewriter.proposal import Proposal, names_in, propose
from advconv_onnx.rewriter.simplify import settle
from tests.parsing import parse
from tests.rewriter.bodies import operators
from tests.rewriter.fusions.disproving import assert_disproved, mutate


def _unswapped(self: SwapBranches, op: Builder, plan: SwapPlan) -> Sequence[ir.Value]:
    """Drop the Not and forget about the branches."""
    bodies = {
        name: plan.node.attributes[name].as_graph().clone(allow_outer_scope_values=True)
        for name in ("then_branch", "else_branch")
    }
    return op.node("If", [plan.condition], bodies, len(plan.node.outputs)).outputs


def test_branches_that_are_not_swapped_are_disproved() -> None:
    assert_disproved(mutate(SwapBranches, rewrite=_unswapped), EXAMPLES[0])


def _proposal(model: ir.Model) -> Proposal:
    (node,) = (node for node in model.graph if node.op_type == "If")
    proposal = propose(RULE, node, 17)
    assert isinstance(proposal, Proposal)
    return proposal


def test_what_branches_read_from_outside_is_an_input_or_a_constant_of_the_small_models() -> None:
    model = settle(parse(EXAMPLES[0]))
    for small in cut(_proposal(model), {"": 17}):
        assert {value.name for value in small.graph.inputs} == {"p", "h", "x"}
        assert set(small.graph.initializers) == {"w", "v"}
        graphs = set(small.graphs())
        for graph in graphs:
            for node in graph:
                assert {value.graph for value in node.inputs if value is not None} <= graphs


def test_a_proposal_given_up_or_committed_leaves_no_readers_behind() -> None:
    """Neither the copies of the bodies nor, later, the bodies they replace."""
    model = settle(parse(EXAMPLES[0]))
    h = next(node for node in model.graph if node.op_type == "Tanh").outputs[0]
    for given_up in (True, False):
        proposal = _proposal(model)
        assert len(h.uses()) == 2
        if given_up:
            proposal.discard()
        else:
            proposal.commit(names_in(model))
        assert len(h.uses()) == 1
    assert operators(model)["Not"] == 0
