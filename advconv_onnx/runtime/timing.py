"""Latencies of several models compared on a machine that is not quiet: see docs/measuring.md."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from advconv_onnx.errors import InputError
from advconv_onnx.records import Latency, Measurement, Ratio, Timing
from advconv_onnx.runtime.field import Field, Nanoseconds
from advconv_onnx.runtime.inputs import spell_shapes
from advconv_onnx.runtime.providers import require

_FEW_ROUNDS = 5
"""Made even when the time is over: fewer give no interval worth the name."""
_MIN_ROUNDS = 15
_MAX_ROUNDS = 200
_TIME_LIMIT = 20.0
_NARROW = 0.02
"""Width of an interval, relative to its median, that more rounds need not improve."""
_RESAMPLES = 2000


def measure(
    candidates: Mapping[str, os.PathLike[str]],
    inputs: Mapping[str, np.ndarray],
    *,
    provider: str = "cpu",
    threads: int | None = None,
    seed: int = 0,
    rounds: int | None = None,
    time_limit: float | None = None,
    timeout: float = 120.0,
    memory_limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Time model files against each other, paired round by round in random order.

    Each candidate has its own process, and the first one, the baseline, a second: their ratio is
    the noise floor. Without ``rounds``, at least 15 are made until every interval is within 2 %.
    A candidate that fails is left out and listed in ``Measurement.failures``.

    Args:
        candidates: model files by name; all take ``inputs``.
        inputs: the arrays of one inference by input name.
        provider: a name of ``providers.PROVIDERS``.
        threads: intra-op threads; None for one per physical core this process may use.
        seed: of the order within rounds and of the bootstrap.
        rounds: exactly how many, if the time suffices; None to stop when the intervals are narrow.
        time_limit: seconds of measuring after which no round beyond the fifth begins; None for 20.
        timeout: seconds that one candidate may take to load, or for its turn in a round.
        memory_limit: bytes that each process may allocate (not on Windows); None for no limit.
        progress: called with the rounds done and expected.

    Raises:
        InputError: no candidate, no round, no thread, no such provider.
        MissingDependencyError: the provider does not work here.
        CheckError: the baseline does not load or run.
    """
    if not candidates:
        raise InputError("nothing to measure: no candidate given; give at least one model")
    if rounds is not None and rounds < 1:
        raise InputError(f"rounds={rounds} is too few; use 1 or more")
    require(provider)
    names = list(candidates)
    again = f"{names[0]} (again)"
    limit = _TIME_LIMIT if time_limit is None else time_limit
    with Field.open(
        {**candidates, again: candidates[names[0]]},
        inputs,
        (names[0], again),
        threads=threads,
        provider=provider,
        timeout=timeout,
        memory_limit=memory_limit,
    ) as field:
        samples = _run_rounds(field, seed, rounds, limit, progress)
    return _summarize(names, samples, spell_shapes(inputs), field.failures, seed)


def paired_ratio(baseline: Nanoseconds, candidate: Nanoseconds, seed: int) -> Ratio:
    """Return the median of ``baseline / candidate`` with its 95 % bootstrap interval.

    Args:
        baseline: one latency per round, shape (rounds,).
        candidate: the same rounds' latencies of the other model, shape (rounds,).
        seed: of the resampling.
    """
    ratios = baseline / candidate
    resampled = np.random.default_rng(seed).choice(ratios, (_RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(resampled, axis=1), [2.5, 97.5])
    return Ratio(float(np.median(ratios)), float(low), float(high))


def _run_rounds(
    field: Field,
    seed: int,
    rounds: int | None,
    time_limit: float,
    progress: Callable[[int, int], None] | None,
) -> Nanoseconds:
    """Return the samples, nanoseconds of shape (rounds, workers), 0 for one that was out."""
    rng = np.random.default_rng(seed)
    most = _MAX_ROUNDS if rounds is None else rounds
    rows: list[list[int]] = []
    start = time.perf_counter()
    while len(rows) < most:
        rows.append(field.run_round(rng))
        spent = time.perf_counter() - start
        if progress:
            progress(len(rows), _expected(len(rows), spent, time_limit, most))
        if len(rows) >= _FEW_ROUNDS and spent >= time_limit:
            break
        enough = rounds is None and len(rows) >= _MIN_ROUNDS and not len(rows) % _FEW_ROUNDS
        if enough and _narrow(np.array(rows), seed):
            break
    if progress:
        progress(len(rows), len(rows))
    return np.array(rows)


def _expected(done: int, spent: float, time_limit: float, most: int) -> int:
    affordable = max(int(done * time_limit / spent), _FEW_ROUNDS)
    return max(done, min(affordable, most))


def _narrow(samples: Nanoseconds, seed: int) -> bool:
    ratios = [paired_ratio(samples[:, 0], column, seed) for column in samples.T[1:] if all(column)]
    return all(ratio.high - ratio.low <= _NARROW * ratio.median for ratio in ratios)


def _summarize(
    names: Sequence[str],
    samples: Nanoseconds,
    shape: str,
    failures: Mapping[str, str],
    seed: int,
) -> Measurement:
    timings = tuple(
        _timing(name, samples[column > 0, 0], column[column > 0], seed)
        for name, column in zip(names, samples.T, strict=False)
        if name not in failures
    )
    noise = paired_ratio(samples[:, 0], samples[:, -1], seed)
    return Measurement(timings, noise, len(samples), shape, failures)


def _timing(name: str, baseline: Nanoseconds, candidate: Nanoseconds, seed: int) -> Timing:
    return Timing(name, _latency(candidate), paired_ratio(baseline, candidate, seed))


def _latency(nanoseconds: Nanoseconds) -> Latency:
    median, p90 = np.percentile(nanoseconds / 1e6, [50, 90])
    return Latency(float(median), float(p90))
