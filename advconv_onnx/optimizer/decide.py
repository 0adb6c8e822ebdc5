"""The acceptance measurements: what does not make the whole model faster is taken back."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from advconv_onnx import model as files
from advconv_onnx.optimizer.cache import Cache
from advconv_onnx.optimizer.options import Options
from advconv_onnx.optimizer.rewriting import Candidate, Rewriting
from advconv_onnx.optimizer.search import Search
from advconv_onnx.records import Figure, Measurement, Rewrite, Status
from advconv_onnx.runtime.inputs import spell_shapes
from advconv_onnx.runtime.race import race
from advconv_onnx.runtime.timing import measure

_KEPT_PROMISE = 0.7
"""Part of what the windows promised that the whole must save for no form to be doubted."""

_DOUBT = 0.01
"""Width of an interval that is good enough where it is not clear which model is faster."""

_SECONDS = 20.0
"""Time one measurement may take when the user sets no limit."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """What candidates are measured against, and on what.

    Attributes:
        baseline: the original model file.
        data: files that hold weights of the original.
        inputs: one inference's arrays by name.
        deadline: on ``time.monotonic``'s clock, after which nothing further is tried.
        folder: where candidates are written for their processes to read.
        cache: of races that were run before between the same files.
    """

    baseline: Path
    data: Collection[Path]
    inputs: Mapping[str, np.ndarray]
    options: Options
    deadline: float
    folder: Path
    cache: Cache

    def measure(self, candidate: Candidate, seed: int) -> Measurement:
        """Time a candidate against the original, each in fresh processes, for people to read."""
        paths = {"original": self.baseline, "optimized": self.folder / "optimized.onnx"}
        files.save(candidate.model, paths["optimized"])
        return measure(
            paths, self.inputs, seed=seed, time_limit=self._seconds, **self.options.timing
        )

    def race(
        self, candidates: Mapping[str, Candidate], baseline: Candidate | None = None
    ) -> dict[str, Figure]:
        """Time candidates against a baseline in one run, each in a fresh process, to decide.

        Args:
            candidates: by name.
            baseline: the original by default.
        """
        written = dict(self._write(candidates, baseline))
        against, *keys = map(self._key, written.values())
        forms = {
            name: f"whole model {key[:16]}" for name, key in zip(candidates, keys, strict=True)
        }
        kept = {name: self.cache.get(against, form) for name, form in forms.items()}
        figures = {name: figure for name, figure in kept.items() if figure is not None}
        paths = {name: parts[0] for name, parts in written.items() if name not in figures}
        if len(paths) == 1:
            return figures
        seconds = self._seconds
        timed = race(
            paths,
            self.inputs,
            bar=1.0,
            seed=self.options.seed,
            time_limit=seconds,
            doubt=_DOUBT,
            **self.options.timing,
        )
        if seconds == _SECONDS:  # A figure taken in a hurry would be kept for later runs.
            for name, figure in timed.items():
                self.cache.put(against, forms[name], figure)
        return figures | timed

    def _write(
        self, candidates: Mapping[str, Candidate], baseline: Candidate | None
    ) -> Iterator[tuple[str, tuple[Path, ...]]]:
        """The files of each model, "baseline" first."""
        if baseline is None:
            yield "baseline", (self.baseline, *sorted(self.data))
        else:
            yield "baseline", files.save(baseline.model, self.folder / "baseline.onnx")
        for index, (name, candidate) in enumerate(candidates.items()):
            yield name, files.save(candidate.model, self.folder / f"candidate_{index}.onnx")

    def _key(self, parts: Iterable[Path]) -> str:
        """Of a model in the cache: equal for equal files and sizes of inputs."""
        content = " ".join([spell_shapes(self.inputs), *map(files.sha256, parts)])
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def _seconds(self) -> float:
        return max(1.0, min(_SECONDS, self.deadline - time.monotonic()))


def keep_fusions(trial: Trial, rewriting: Rewriting, announce: Callable[[str], None]) -> Candidate:
    """The fused model if it is not slower than the original; else without what costs most.

    While the whole confidence interval says slower, the candidate is compared with itself less one
    rule, for each rule, and the best of them is tried next; the last resort is the original.
    """
    candidate = rewriting.candidate()
    without: tuple[str, ...] = ()
    announce("measuring")
    while _is_slower(trial.race({"": candidate})[""]):
        rules = _rules_of(candidate)
        if not rules or time.monotonic() > trial.deadline:
            reason = "the rewritten model is slower than the original on this machine"
            return rewriting.untouched(candidate.rewrites, "slower", reason)
        announce("reverting what costs most")
        variants = {rule: rewriting.candidate((*without, rule)) for rule in rules}
        best = _fastest(trial.race(variants))
        dropped = [r for r in candidate.rewrites if r.rule == best and r.status == "applied"]
        without = (*without, best)
        reason = "the model is faster without this rule on this machine"
        candidate = _with_records(variants[best], _given_up(dropped, "slower", reason))
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
        found = trial.race({"": tried.candidate}, fused)[""]
        pays = _is_faster(found)
        if pays and found.saved_ms >= tried.promised * _KEPT_PROMISE:
            return tried.candidate
        if time.monotonic() > trial.deadline:
            break
        announce("reverting what costs most")
        variants = {
            name: _Tried.of(rewriting, fused, search, (*without, name)) for name in tried.forms
        }
        candidates = {name: variant.candidate for name, variant in variants.items()}
        figures = trial.race(candidates, tried.candidate)
        best = _fastest(figures)
        if pays and not _is_faster(figures[best]):
            return tried.candidate
        without = (*without, best)
        tried = variants[best]
    return tried.given_up(fused)


def _fastest(figures: Mapping[str, Figure]) -> str:
    """Name of the best of some candidates; those that fail come last."""

    def speedup(name: str) -> float:
        ratio = figures[name].ratio
        return ratio.median if ratio else 0.0

    return max(figures, key=speedup)


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


def _is_faster(figure: Figure) -> bool:
    return figure.ratio is not None and figure.ratio.low > 1


def _is_slower(figure: Figure) -> bool:
    return figure.ratio is None or figure.ratio.high < 1


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
