"""Changes that are made on a copy, verified, and either kept or given up with a recorded reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx.optimizer.prove import Disproved, NotCompared, Prover
from advconv_onnx.records import Rewrite
from advconv_onnx.rewriter.proposal import Proposal, Refusal, names_in, propose
from advconv_onnx.rewriter.rule import Rule
from advconv_onnx.rewriter.simplify import clean

_FUEL = 20
"""Passes over a graph before rules that undo each other are stopped."""

_TINY = 1 << 10
"""Bytes that a rewrite may always add: sizes, axes and single numbers."""

Site = tuple[str, tuple[str, ...]]
"""A rule's name and the names of the nodes it applies to."""


def attempt(
    name: str,
    model: ir.Model,
    change: Callable[[ir.Model], ir.Model],
    check: Callable[[ir.Model], None],
) -> tuple[ir.Model, Rewrite]:
    """Change a copy of a model and keep the copy if the change succeeds, else the model as it was.

    Args:
        name: what the change is called in the report.
        model: stays as it is.
        change: gets a copy and returns the changed model.
        check: raises an error for a model that is not to be kept.
    """
    before = files.count_nodes(model)
    try:
        changed = change(model.clone())
        check(changed)
    except Exception as error:  # Passes of other packages raise anything.
        return model, Rewrite(name, (), "refused", " ".join(str(error).split()))
    after = files.count_nodes(changed)
    return changed, Rewrite(name, (), "applied", f"{before} -> {after} nodes")


@dataclasses.dataclass(frozen=True)
class Fusing:
    """The fusions applied to a model until none applies any more.

    Attributes:
        model: the rewritten model.
        applied: one record per site, in order.
        refused: sites of the final graph that match a rule and must not be rewritten.
        wanted_opset: the newest opset that a refused site waits for, 0 when none does.
    """

    model: ir.Model
    applied: tuple[Rewrite, ...]
    refused: tuple[Rewrite, ...]
    wanted_opset: int


def fuse(
    model: ir.Model,
    rules: Collection[Rule[Any]],
    *,
    seed: int,
    banned: Collection[Site] = (),
    limit: int | None = None,
    may_grow: bool = True,
) -> Fusing:
    """Apply rules to a copy of a model, each site proved before it is committed.

    Args:
        model: stays as it is; its shapes should have been inferred.
        rules: the rules to apply.
        seed: of the proofs.
        banned: sites that are not to be rewritten.
        limit: how many sites to rewrite at most, to find the one that breaks a model.
        may_grow: whether nodes that share a weight may each get one of their own.
    """
    run = _Run(model.clone(), rules, seed, set(banned), limit, may_grow)
    for _ in range(_FUEL):
        if not run.pass_over():
            break
        clean(run.model)
        # A shape that became known makes sites, behind nodes that were not touched too.
        files.infer_shapes(run.model)
    return Fusing(
        run.model,
        tuple(run.applied),
        tuple(
            [*run.disproved.values()]
            + [Rewrite(r.rule.name, r.names, "refused", r.reason) for r in run.refusals.values()]
        ),
        max((refusal.wanted_opset for refusal in run.refusals.values()), default=0),
    )


class _Run:
    """The state of one ``fuse``."""

    def __init__(
        self,
        model: ir.Model,
        rules: Collection[Rule[Any]],
        seed: int,
        banned: set[Site],
        limit: int | None,
        may_grow: bool,
    ) -> None:
        self.model = model
        self.applied: list[Rewrite] = []
        self.disproved: dict[Site, Rewrite] = {}
        self.refusals: dict[Site, Refusal] = {}
        self._opset = files.opset(model)
        self._prover = Prover(dict(model.opset_imports), seed)
        self._taken = names_in(model)
        self._rules: dict[str, list[Rule[Any]]] = {}
        for rule in rules:
            for op_type in rule.roots:
                self._rules.setdefault(op_type, []).append(rule)
        self._banned = banned
        self._limit = limit
        self._may_grow = may_grow

    def pass_over(self) -> bool:
        """Visit every node of every graph once; whether anything was rewritten."""
        before = len(self.applied)
        self.refusals.clear()
        self._taken |= names_in(self.model)  # Cleaning up names things too.
        self._visit_all(self.model.graph)
        return len(self.applied) > before

    def _visit_all(self, graph: ir.Graph) -> None:
        for node in list(graph):
            if node.graph is graph:  # not replaced since the list was made
                self._visit(node)
            if node.graph is graph:
                for _, body in files.bodies(node):
                    self._visit_all(body)

    def _visit(self, node: ir.Node) -> None:
        for rule in self._rules.get(node.op_type, ()):
            result = propose(rule, node, self._opset)
            if result is None:
                continue
            site = (rule.name, result.names)
            if isinstance(result, Refusal):
                self.refusals[site] = result
                continue
            may_commit = self._may_commit(site) and self._has_room(result)
            certificate = self._prove(result, site) if may_commit else None
            if certificate is not None:
                result.commit(self._taken)
                self.applied.append(Rewrite(*site, "applied", "", certificate))
                return
            result.discard()

    def _may_commit(self, site: Site) -> bool:
        if site in self._banned or site in self.disproved:
            return False
        return self._limit is None or len(self.applied) < self._limit

    def _has_room(self, proposal: Proposal) -> bool:
        if self._may_grow:
            return True
        growth = proposal.growth
        if growth <= _TINY:
            return True
        reason = f"the weights would grow by {growth} bytes, and by more than --max-growth in all"
        self.refusals[proposal.rule.name, proposal.names] = Refusal(
            proposal.rule, proposal.names, reason
        )
        return False

    def _prove(self, proposal: Proposal, site: Site) -> str | None:
        try:
            return self._prover.prove(proposal)
        except NotCompared as reason:
            self.refusals[site] = Refusal(proposal.rule, site[1], str(reason))
            return None
        except Disproved as evidence:
            self.disproved[site] = Rewrite(*site, "inaccurate", str(evidence))
            return None
