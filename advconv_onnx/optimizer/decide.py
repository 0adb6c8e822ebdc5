"""The acceptance measurement: a candidate stays only if it is not slower than the original."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from advconv_onnx import model as files
from advconv_onnx.optimizer.options import Options
from advconv_onnx.optimizer.rewriting import Candidate, Rewriting
from advconv_onnx.records import Measurement, Rewrite
from advconv_onnx.runtime.timing import measure

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

    def measure(self, candidates: Mapping[str, Candidate], seed: int) -> Measurement:
        """Time candidates against the original in one run, each in fresh processes."""
        paths: dict[str, Path] = {"original": self.baseline}
        for index, (name, candidate) in enumerate(candidates.items()):
            paths[name] = self.folder / f"candidate_{index}.onnx"
            files.save(candidate.model, paths[name])
        options = self.options
        limit = options.memory_limit
        return measure(
            paths,
            self.inputs,
            provider=options.provider,
            threads=options.threads,
            seed=seed,
            time_limit=max(1.0, min(_SECONDS, self.deadline - time.monotonic())),
            memory_limit=None if limit is None else int(limit * 2**30),
        )


def decide(
    trial: Trial, rewriting: Rewriting, candidate: Candidate, announce: Callable[[str], None]
) -> tuple[Candidate, Measurement]:
    """Keep a candidate if it is not slower than the original; else leave out what costs most.

    While the whole confidence interval says slower, the candidate is compared with itself less one
    rule, for each rule, and the best of them is tried next; the last resort is the original. What
    is kept is timed once more with fresh processes and another seed.

    Returns:
        What is kept, and the second measurement of it against the original.
    """
    without: tuple[str, ...] = ()
    announce("measuring")
    while _is_slower(trial.measure({"optimized": candidate}, trial.options.seed)):
        rules = _fusions_of(candidate)
        if not rules or time.monotonic() > trial.deadline:
            reason = "the rewritten model is slower than the original on this machine"
            candidate = rewriting.untouched(candidate.rewrites, "slower", reason)
            break
        announce("reverting what costs most")
        variants = {rule: rewriting.candidate((*without, rule)) for rule in rules}
        timings = trial.measure(variants, trial.options.seed).timings[1:]
        best = max(timings, key=lambda timing: timing.speedup.median)
        dropped = [r for r in candidate.rewrites if r.rule == best.name and r.status == "applied"]
        without = (*without, best.name)
        candidate = _with_records(variants[best.name], dropped)
    announce("measuring again")
    return candidate, trial.measure({"optimized": candidate}, trial.options.seed + 1)


def _is_slower(measurement: Measurement) -> bool:
    if measurement.failures:
        return True
    return measurement.timings[1].speedup.high < 1


def _fusions_of(candidate: Candidate) -> tuple[str, ...]:
    """Names of the rules that rewrote sites of a candidate."""
    return tuple(
        dict.fromkeys(r.rule for r in candidate.rewrites if r.status == "applied" and r.nodes)
    )


def _with_records(candidate: Candidate, dropped: list[Rewrite]) -> Candidate:
    reason = "the model is faster without this rule on this machine"
    slower = [dataclasses.replace(r, status="slower", reason=reason) for r in dropped]
    return dataclasses.replace(candidate, rewrites=(*candidate.rewrites, *slower))
