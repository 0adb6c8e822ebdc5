"""All exact rewrites of one model: general passes, then fusions, verified and bisected."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx.errors import CheckError
from advconv_onnx.optimizer.options import Options
from advconv_onnx.optimizer.transaction import Fusing, Site, attempt, fuse
from advconv_onnx.records import Rewrite, Status, Validation
from advconv_onnx.rewriter import simplify
from advconv_onnx.rewriter.fusions import all_rules
from advconv_onnx.rewriter.rule import Rule
from advconv_onnx.runtime.validate import Evidence, gather, validate

_MOST_CULPRITS = 5
"""Sites found guilty one after another before a model's fusions are given up altogether."""

_SMALL_GROWTH = 1 << 16
"""Bytes a model may always grow by: a ratio says nothing about a tiny file."""

_FOLDED_PART = 16
"""One folded constant may take up to this part of the growth that is allowed."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A rewritten model that was shown to equal the original.

    Attributes:
        rewrites: everything decided on the way to it, refusals included.
        validation: the evidence.
    """

    model: ir.Model
    rewrites: tuple[Rewrite, ...]
    validation: Validation


@dataclasses.dataclass(frozen=True)
class _Base:
    """A model on the way, and what was decided up to it."""

    model: ir.Model
    records: tuple[Rewrite, ...]


class Rewriting:
    """The rewrites of one model under one set of options.

    All general passes and fusions are made first and the result is validated once; only if it
    differs from the original is the step looked for that breaks it.
    """

    def __init__(
        self, original: ir.Model, options: Options, announce: Callable[[str], None]
    ) -> None:
        """Prepare the model with general passes.

        Args:
            original: the model to trust, with its input shapes settled; stays as it is.
            options: of the run.
            announce: called with the name of each stage as it begins.
        """
        self._original = original
        self._options = options
        self._announce = announce
        self._given_up: dict[str, Rewrite] = {}
        self._evidence: Evidence | None = None
        self._base = self._prepare()

    def candidate(self, without: Collection[str] = ()) -> Candidate:
        """The model with all rewrites made, except those of the rules named in ``without``.

        Raises:
            CheckError: not even the untouched model can be shown to equal itself.
        """
        rules = [rule for rule in all_rules(self._options.provider) if rule.name not in without]
        banned: dict[Site, Rewrite] = {}
        while len(banned) + len(self._given_up) < _MOST_CULPRITS:
            self._announce("fusing")
            base, fusing = self._fuse(rules, banned)
            records = (*base.records, *fusing.applied, *banned.values(), *fusing.refused)
            if growth := self._growth(fusing.model):
                return self.untouched(records, "refused", growth)
            self._announce("validating")
            validation = self.validate(fusing.model)
            if validation.passed:
                return Candidate(fusing.model, _certified(records, validation), validation)
            self._announce("finding the rewrite that breaks the model")
            reason = validation.failure
            if self._give_up_guilty_pass(base, reason):
                continue
            if not fusing.applied:
                break
            guilty = self._guilty_site(base, rules, banned, fusing.applied)
            banned[guilty.rule, guilty.nodes] = dataclasses.replace(
                guilty, status="inaccurate", reason=reason
            )
        return self.untouched(records, "inaccurate", validation.failure)

    def untouched(self, records: Sequence[Rewrite], status: Status, reason: str) -> Candidate:
        """The original itself, with the rewrites that were tried marked as given up.

        Raises:
            CheckError: the original cannot be shown to equal itself.
        """
        validation = self.validate(self._original)
        if not validation.passed:
            raise CheckError(f"nothing can be proved about this model: {validation.failure}")
        given_up = tuple(
            dataclasses.replace(record, status=status, reason=reason)
            if record.status == "applied"
            else record
            for record in records
        )
        return Candidate(self._original, given_up, validation)

    def _unlisted_initializers(self) -> tuple[Rewrite, ...]:
        listed = self._original.meta.get(files.LISTED_INITIALIZERS, 0)
        reason = f"{listed} initializers are no longer graph inputs, so they are constants"
        return (Rewrite("unlist_initializers", (), "applied", reason),) if listed else ()

    def _prepare(self) -> _Base:
        """The original with its constants folded, unless that was given up."""
        base = _Base(self._original, self._unlisted_initializers())
        return self._step(base, "fold_constants", self._fold_constants)

    def _step(self, base: _Base, name: str, change: Callable[[ir.Model], ir.Model]) -> _Base:
        if name in self._given_up:
            return _Base(base.model, (*base.records, self._given_up[name]))
        self._announce(name)
        model, record = attempt(name, base.model, change, self._refuse_growth)
        return _Base(model, (*base.records, record))

    def _refuse_growth(self, model: ir.Model) -> None:
        if growth := self._growth(model):
            raise CheckError(growth)

    def _fold_constants(self, model: ir.Model) -> ir.Model:
        """Fold all, or only small constants where the large ones would make the file grow."""
        settled = simplify.settle(model)
        before = files.weight_bytes(settled)
        growth = before * max(self._options.max_growth - 1, 0)
        small = int(max(growth, _SMALL_GROWTH)) // _FOLDED_PART
        folded = simplify.fold_constants(settled.clone(), before)
        if files.weight_bytes(folded) <= before + small:
            return folded
        return simplify.fold_constants(settled, small // 8)

    def _fuse(self, rules: Collection[Rule[Any]], banned: Collection[Site]) -> tuple[_Base, Fusing]:
        """Fuse, in a newer opset if sites wait for one and are then rewritten.

        Returns:
            The base that was fused, and the result.
        """
        base, seed = self._base, self._options.seed
        fusing = None
        wanted = fuse(base.model, rules, seed=seed, limit=0).wanted_opset
        if not wanted:
            fusing = self._fuse_within(base, rules, banned)
            wanted = fusing.wanted_opset
        if wanted:
            raised = self._step(base, "raise_opset", functools.partial(_raise_opset, wanted))
            if raised.model is base.model:
                base = raised
            else:
                newer = self._fuse_within(raised, rules, banned)
                opset = files.opset(base.model)
                needing = {rule.name for rule in rules if rule.minimum_opset > opset}
                if any(rewrite.rule in needing for rewrite in newer.applied):
                    return raised, newer
        return base, fusing or self._fuse_within(base, rules, banned)

    def _fuse_within(
        self,
        base: _Base,
        rules: Collection[Rule[Any]],
        banned: Collection[Site],
        limit: int | None = None,
    ) -> Fusing:
        """Fuse, without giving shared weights to each reader if that grows the model too much."""
        run = functools.partial(fuse, base.model, rules, seed=self._options.seed, banned=banned)
        whole = run()
        may_grow = not self._growth(whole.model)
        return whole if may_grow and limit is None else run(limit=limit, may_grow=may_grow)

    def _give_up_guilty_pass(self, base: _Base, reason: str) -> bool:
        """Find the pass over the whole model that makes it differ, and leave it out from now on."""
        for step in dict.fromkeys((self._base, base)):
            record = step.records[-1]
            if record.status == "applied" and not self.validate(step.model).passed:
                self._given_up[record.rule] = dataclasses.replace(
                    record, status="inaccurate", reason=reason
                )
                self._base = self._prepare()
                return True
        return False

    def _guilty_site(
        self,
        base: _Base,
        rules: Collection[Rule[Any]],
        banned: Collection[Site],
        applied: Sequence[Rewrite],
    ) -> Rewrite:
        """The first site after whose rewriting the model differs, found by bisection."""
        good, bad = 0, len(applied)
        while bad - good > 1:
            middle = (good + bad) // 2
            part = self._fuse_within(base, rules, banned, limit=middle)
            good, bad = (middle, bad) if self.validate(part.model).passed else (good, middle)
        return applied[bad - 1]

    def room(self, model: ir.Model) -> int:
        """Bytes by which a model's weights may still grow."""
        before, after = files.weight_bytes(self._original), files.weight_bytes(model)
        return int(max(before * self._options.max_growth, before + _SMALL_GROWTH)) - after

    def _growth(self, model: ir.Model) -> str:
        """Say by how much a model has grown if that is too much, else nothing."""
        before, after = files.weight_bytes(self._original), files.weight_bytes(model)
        if self.room(model) >= 0:
            return ""
        return f"the weights grow from {before} to {after} bytes, more than --max-growth allows"

    def validate(self, model: ir.Model) -> Validation:
        """Compare a model with the original on the inputs of this run."""
        options = self._options
        if node := files.custom_node(self._original):
            note = (
                f"not compared as a whole: operator {node.domain}.{node.op_type} needs a "
                "custom-operator library; each rewrite was proved on its own site"
            )
            return Validation(True, options.max_error, (), 0, (), (note,))
        evidence = self._evidence or gather(
            self._original, seed=options.seed, threads=options.threads, data=options.data
        )
        # In float64 large weights would take twice the model's memory all the time.
        self._evidence = None if evidence.sparing else evidence
        return validate(
            self._original,
            model,
            max_error=options.max_error,
            seed=options.seed,
            provider=options.provider,
            threads=options.threads,
            evidence=evidence,
        )


def _raise_opset(target: int, model: ir.Model) -> ir.Model:
    return simplify.settle(simplify.raise_opset(model, target))


def _certified(records: Sequence[Rewrite], validation: Validation) -> tuple[Rewrite, ...]:
    """Passes over the whole model carry the evidence of the whole."""
    if not validation.checks:
        return tuple(records)
    evidence = f"within {validation.max_relative:.0e} of range on {validation.inputs} inputs"
    return tuple(
        dataclasses.replace(r, certificate=evidence)
        if r.status == "applied" and not r.certificate and not r.nodes
        else r
        for r in records
    )
