"""All exact rewrites of one model: general passes, then fusions, verified and bisected."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence

import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx.errors import CheckError
from advconv_onnx.optimizer.options import Options
from advconv_onnx.optimizer.transaction import Fusing, Site, Unequal, attempt, fuse
from advconv_onnx.records import Rewrite, Status, Validation
from advconv_onnx.rewriter import simplify
from advconv_onnx.rewriter.fusions import all_rules
from advconv_onnx.rewriter.rule import Rule
from advconv_onnx.runtime.validate import validate

_ONNXSIM_SECONDS = 300.0
"""Time onnxsim gets when the user sets no limit: it needs seconds for models of this field."""

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
    """A model that fusions start from, and what was decided on the way to it."""

    model: ir.Model
    records: tuple[Rewrite, ...]


class Rewriting:
    """The rewrites of one model under one set of options."""

    def __init__(
        self, original: ir.Model, options: Options, announce: Callable[[str], None]
    ) -> None:
        """Prepare the model with general passes, each verified.

        Args:
            original: the model to trust, with its input shapes settled; stays as it is.
            options: of the run.
            announce: called with the name of each stage as it begins.
        """
        self._original = original
        self._options = options
        self._announce = announce
        base = _Base(original, self._unlisted_initializers())
        base = self._keep(base, "fold_constants", self._fold_constants)
        self._old_opset = self._keep(base, "onnxsim", self._run_onnxsim)
        self._new_opset = self._raise_opset(self._old_opset)

    def candidate(self, without: Collection[str] = ()) -> Candidate:
        """The model with all rewrites made, except those of the rules named in ``without``.

        Raises:
            CheckError: not even the untouched model can be shown to equal itself.
        """
        rules = [rule for rule in all_rules() if rule.name not in without]
        banned: dict[Site, Rewrite] = {}
        base = self._new_opset
        while len(banned) < _MOST_CULPRITS:
            self._announce("fusing")
            fusing = self._fuse(base, rules, banned)
            if base is not self._old_opset and not self._uses_new_opset(rules, fusing):
                base = self._old_opset
                fusing = self._fuse(base, rules, banned)
            records = (*base.records, *fusing.applied, *banned.values(), *fusing.refused)
            if growth := self._growth(fusing.model):
                return self.untouched(records, "refused", growth)
            self._announce("validating")
            validation = self._validate(fusing.model)
            if validation.passed:
                return Candidate(fusing.model, records, validation)
            self._announce("finding the rewrite that breaks the model")
            guilty = self._find_guilty(base, rules, banned, len(fusing.applied))
            if guilty is None:
                break
            reason = _why(validation)
            record = dataclasses.replace(guilty, status="inaccurate", reason=reason)
            banned[guilty.rule, guilty.nodes] = record
        return self.untouched(records, "inaccurate", _why(validation))

    def untouched(self, records: Sequence[Rewrite], status: Status, reason: str) -> Candidate:
        """The original itself, with the rewrites that were tried marked as given up.

        Raises:
            CheckError: the original cannot be shown to equal itself.
        """
        validation = self._validate(self._original)
        if not validation.passed:
            raise CheckError(f"nothing can be proved about this model: {_why(validation)}")
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

    def _keep(self, base: _Base, name: str, change: Callable[[ir.Model], ir.Model]) -> _Base:
        self._announce(name)
        model, record = attempt(name, base.model, change, self._verify)
        return _Base(model, (*base.records, record))

    def _raise_opset(self, base: _Base) -> _Base:
        """Raise the opset if sites of this model wait for a newer one."""
        wanted = self._fuse(base, all_rules(), (), limit=0).wanted_opset
        if not wanted:
            return base
        return self._keep(
            base, "raise_opset", lambda model: simplify.settle(simplify.raise_opset(model, wanted))
        )

    def _uses_new_opset(self, rules: Collection[Rule], fusing: Fusing) -> bool:
        old = files.opset(self._old_opset.model)
        needing = {rule.name for rule in rules if rule.minimum_opset > old}
        return any(rewrite.rule in needing for rewrite in fusing.applied)

    def _fold_constants(self, model: ir.Model) -> ir.Model:
        model, _ = simplify.tidy(model)
        simplify.fold_constants(model, self._largest_folded // 8)
        return simplify.settle(model)

    def _run_onnxsim(self, model: ir.Model) -> ir.Model:
        seconds = self._options.time_limit or _ONNXSIM_SECONDS
        return simplify.settle(
            simplify.simplify_apart(
                model, seconds, self._options.memory_limit, self._largest_folded
            )
        )

    @property
    def _largest_folded(self) -> int:
        """Bytes a folded constant may have."""
        growth = files.weight_bytes(self._original) * max(self._options.max_growth - 1, 0)
        return int(max(growth, _SMALL_GROWTH)) // _FOLDED_PART

    def _fuse(
        self,
        base: _Base,
        rules: Collection[Rule],
        banned: Collection[Site],
        limit: int | None = None,
    ) -> Fusing:
        return fuse(base.model, rules, seed=self._options.seed, banned=banned, limit=limit)

    def _find_guilty(
        self, base: _Base, rules: Collection[Rule], banned: Collection[Site], applied: int
    ) -> Rewrite | None:
        """Bisect for the first site whose rewriting makes the model differ."""
        good, bad = 0, applied
        if not bad or not self._validate(self._fuse(base, rules, banned, 0).model).passed:
            return None
        while bad - good > 1:
            middle = (good + bad) // 2
            passed = self._validate(self._fuse(base, rules, banned, middle).model).passed
            good, bad = (middle, bad) if passed else (good, middle)
        return self._fuse(base, rules, banned, bad).applied[-1]

    def _growth(self, model: ir.Model) -> str:
        """Say by how much a model has grown if that is too much, else nothing."""
        before, after = files.weight_bytes(self._original), files.weight_bytes(model)
        if after <= max(before * self._options.max_growth, before + _SMALL_GROWTH):
            return ""
        return f"the weights grow from {before} to {after} bytes, more than --max-growth allows"

    def _verify(self, model: ir.Model) -> str:
        if growth := self._growth(model):
            raise CheckError(growth)
        validation = self._validate(model, float64=False)
        if not validation.passed:
            raise Unequal(_why(validation))
        return f"within {validation.max_relative:.0e} of range on {validation.inputs} inputs"

    def _validate(self, model: ir.Model, *, float64: bool = True) -> Validation:
        options = self._options
        return validate(
            self._original,
            model,
            max_error=options.max_error,
            seed=options.seed,
            provider=options.provider,
            threads=options.threads,
            data=options.data,
            float64=float64,
        )


def _why(validation: Validation) -> str:
    """Why a validation failed, in one line."""
    worst = max(validation.checks, key=lambda check: check.max_relative, default=None)
    if worst is not None and worst.max_relative > validation.max_error:
        return f"'{worst.tensor}' differs by {worst.max_relative:.1e} of its range"
    return "; ".join(validation.notes) or "the outputs differ"
