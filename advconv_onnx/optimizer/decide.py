"""The acceptance measurements: what does not make the whole model faster is taken back."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from advconv_onnx import model as files
from advconv_onnx.optimizer.options import Options
from advconv_onnx.optimizer.rewriting import Candidate, Rewriting
from advconv_onnx.optimizer.search import Search
from advconv_onnx.records import Measurement, Rewrite, Status
from advconv_onnx.runtime.timing import measure

_KEPT_PROMISE = 0.7
"""Part of what the windows promised that the whole must save for no form to be doubted."""

_SECONDS = 20.0
"""Time one measurement may take when the user sets no limit."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """What candidates are measured against, and on what.

    Attributes:
        baseline: the original model file.
        inputs: one inference's arrays by name.
        deadline: on ``time.monotonic``'s clock, after which nothing further is tried.
        folder: where candidates are written for their processes to read.
    """

    baseline: Path
    inputs: Mapping[str, np.ndarray]
    options: Options
    deadline: float
    folder: Path

    def measure(
        self, candidates: Mapping[str, Candidate], seed: int, baseline: Candidate | None = None
    ) -> Measurement:
        """Time candidates against a baseline in one run, each in fresh processes.

        Args:
            candidates: by name.
            seed: of the measurement.
            baseline: the original by default.
        """
        paths: dict[str, Path] = {"original": self.baseline}
        if baseline is not None:
            paths = {"baseline": self.folder / "baseline.onnx"}
            files.save(baseline.model, paths["baseline"])
        for index, (name, candidate) in enumerate(candidates.items()):
            paths[name] = self.folder / f"candidate_{index}.onnx"
            files.save(candidate.model, paths[name])
        options = self.options
        return measure(
            paths,
            self.inputs,
            provider=options.provider,
            threads=options.threads,
            seed=seed,
            time_limit=max(1.0, min(_SECONDS, self.deadline - time.monotonic())),
            memory_limit=options.memory_bytes,
        )


def keep_fusions(trial: Trial, rewriting: Rewriting, announce: Callable[[str], None]) -> Candidate:
    """The fused model if it is not slower than the original; else without what costs most.

    While the whole confidence interval says slower, the candidate is compared with itself less one
    rule, for each rule, and the best of them is tried next; the last resort is the original.
    """
    candidate = rewriting.candidate()
    without: tuple[str, ...] = ()
    announce("measuring")
    while _is_slower(trial.measure({"optimized": candidate}, trial.options.seed)):
        rules = _rules_of(candidate)
        if not rules or time.monotonic() > trial.deadline:
            reason = "the rewritten model is slower than the original on this machine"
            return rewriting.untouched(candidate.rewrites, "slower", reason)
        announce("reverting what costs most")
        variants = {rule: rewriting.candidate((*without, rule)) for rule in rules}
        timings = trial.measure(variants, trial.options.seed).timings[1:]
        best = max(timings, key=lambda timing: timing.speedup.median)
        dropped = [r for r in candidate.rewrites if r.rule == best.name and r.status == "applied"]
        without = (*without, best.name)
        reason = "the model is faster without this rule on this machine"
        candidate = _with_records(variants[best.name], _given_up(dropped, "slower", reason))
    return candidate


def keep_forms(
    trial: Trial,
    rewriting: Rewriting,
    fused: Candidate,
    search: Search,
    announce: Callable[[str], None],
) -> Candidate:
    """The fused model with the forms that were found, if it is faster with them as a whole.

    Where it gains less than the windows of its sites promised, some form costs more in the whole
    than alone: it is compared with itself less one form, for each form, until none is better left
    out.
    """
    without: tuple[str, ...] = ()
    tried = _Tried.of(rewriting, fused, search, without)
    while tried.forms:
        announce("measuring the forms together")
        found = trial.measure({"": tried.candidate}, trial.options.seed, baseline=fused)
        pays = not _is_slower(found) and found.timings[1].speedup.low > 1
        if pays and _gained_ms(found) >= tried.promised * _KEPT_PROMISE:
            return tried.candidate
        if time.monotonic() > trial.deadline:
            break
        announce("reverting what costs most")
        variants = {
            name: _Tried.of(rewriting, fused, search, (*without, name)) for name in tried.forms
        }
        candidates = {name: variant.candidate for name, variant in variants.items()}
        compared = trial.measure(candidates, trial.options.seed, baseline=tried.candidate)
        best = max(compared.timings[1:], key=lambda timing: timing.speedup.median)
        if pays and best.speedup.low <= 1:
            return tried.candidate
        without = (*without, best.name)
        tried = variants[best.name]
    return tried.given_up(fused)


def _gained_ms(found: Measurement) -> float:
    return found.timings[0].latency.median * (1 - 1 / found.timings[1].speedup.median)


@dataclasses.dataclass(frozen=True)
class _Tried:
    """The fused model with forms, or as it is where they make the whole too inaccurate.

    Attributes:
        decided: what the search decided about each form.
        promised: milliseconds that the windows say an inference saves.
    """

    candidate: Candidate
    decided: tuple[Rewrite, ...]
    promised: float

    @classmethod
    def of(
        cls, rewriting: Rewriting, fused: Candidate, search: Search, without: tuple[str, ...]
    ) -> _Tried:
        found = search.result(without)
        validation = rewriting.validate(found.model)
        if validation.passed:
            candidate = Candidate(found.model, (*fused.rewrites, *found.rewrites), validation)
            return cls(candidate, found.rewrites, found.promised)
        reason = f"the whole differs by {validation.max_relative:.1e} of its range"
        failed = tuple(_given_up(found.rewrites, "inaccurate", reason))
        return cls(_with_records(fused, failed), failed, 0.0)

    @property
    def forms(self) -> tuple[str, ...]:
        """Names of the forms in the model."""
        return tuple(dict.fromkeys(r.rule for r in self.decided if r.status == "applied"))

    def given_up(self, fused: Candidate) -> Candidate:
        """The fused model without any of the forms."""
        reason = "the whole model is not faster with it on this machine"
        return _with_records(fused, _given_up(self.decided, "slower", reason))


def _is_slower(measurement: Measurement) -> bool:
    if measurement.failures:
        return True
    return measurement.timings[1].speedup.high < 1


def _rules_of(candidate: Candidate) -> tuple[str, ...]:
    """Names of the rules that rewrote sites of a candidate."""
    return tuple(
        dict.fromkeys(r.rule for r in candidate.rewrites if r.status == "applied" and r.nodes)
    )


def _given_up(records: Sequence[Rewrite], status: Status, reason: str) -> list[Rewrite]:
    """The records, those of what was applied with another status."""
    return [
        dataclasses.replace(r, status=status, reason=reason) if r.status == "applied" else r
        for r in records
    ]


def _with_records(candidate: Candidate, more: Sequence[Rewrite]) -> Candidate:
    return dataclasses.replace(candidate, rewrites=(*candidate.rewrites, *more))
