"""Which of several variants of a model is fastest: whoever cannot win is timed no further."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence

import numpy as np

from advconv_onnx.records import Figure, Ratio
from advconv_onnx.runtime.field import Field, Nanoseconds
from advconv_onnx.runtime.pool import Pool
from advconv_onnx.runtime.timing import paired_ratio

_FEW_ROUNDS = 5
"""Before, only those far behind are let go, and no race ends for want of time."""

_FAR = 0.75
"""Part of the bar, and of the best speedup, that is far behind after two rounds."""

_NARROW = 0.05
"""Width of an interval, relative to its median, that is good enough to choose by."""

_MOST_ROUNDS = 100


def race(
    candidates: Mapping[str, os.PathLike[str]],
    inputs: Mapping[str, np.ndarray],
    *,
    bar: float,
    time_limit: float,
    provider: str = "cpu",
    threads: int | None = None,
    seed: int = 0,
    timeout: float = 120.0,
    memory_limit: int | None = None,
    pool: Pool | None = None,
    doubt: float = _NARROW,
) -> dict[str, Figure]:
    """Time model files against the first, paired round by round in random order.

    A candidate goes when its whole interval lies below the bar or below that of the best; the race
    ends when all have gone, or the intervals of those that stay are within 5 %. So the figure of a
    winner is good to some percent, that of a loser only good enough to say that it lost. To tell
    figures to people use ``measure``.

    Args:
        candidates: model files by name, the baseline first; all take ``inputs``.
        inputs: the arrays of one inference by input name.
        bar: speedup that a candidate has to reach to be of interest.
        time_limit: seconds after which no round beyond the fifth begins.
        provider: a name of ``providers.PROVIDERS``.
        threads: intra-op threads; None for one per physical core this process may use.
        seed: of the order within rounds and of the bootstrap.
        timeout: seconds that one candidate may take to load, or for its turn in a round.
        memory_limit: bytes that each process may allocate (not on Windows); None for no limit.
        pool: of processes to use and to leave for further races; None for fresh ones.
        doubt: width of an interval that is good enough even if the bar lies in it.

    Returns:
        By name, what each candidate but the baseline came to.

    Raises:
        CheckError: the baseline does not load or run.
    """
    names = list(candidates)
    with Field.open(
        candidates,
        inputs,
        (names[0],),
        threads=threads,
        pool=pool,
        provider=provider,
        timeout=timeout,
        memory_limit=memory_limit,
    ) as field:
        samples = _run_rounds(field, names, bar, time_limit, seed, doubt)
    timed = [name for name in names[1:] if name not in field.failures]
    ms = float(np.median(samples[:, 0])) / 1e6
    failed = {name: Figure(None, ms, why) for name, why in field.failures.items()}
    ratios = _ratios(timed, names, samples, seed)
    return failed | {name: Figure(ratio, ms) for name, ratio in ratios.items()}


def _run_rounds(
    field: Field, names: list[str], bar: float, time_limit: float, seed: int, doubt: float
) -> Nanoseconds:
    """Return the samples, nanoseconds of shape (rounds, candidates), 0 for one that was out."""
    rng = np.random.default_rng(seed)
    rows: list[list[int]] = []
    start = time.perf_counter()
    while not rows or (len(field.running) > 1 and len(rows) < _MOST_ROUNDS):
        rows.append(field.run_round(rng))
        if len(rows) == 1:
            continue
        few = len(rows) < _FEW_ROUNDS
        rivals = _ratios(field.running[1:], names, np.array(rows), seed)
        stay = _unbeaten(rivals, bar, _FAR if few else 1.0)
        field.running = [names[0], *stay]
        over = time.perf_counter() - start >= time_limit
        settled = all(_is_settled(ratio, bar, doubt) for ratio in stay.values())
        if not few and (over or settled):
            break
    return np.array(rows)


def _unbeaten(ratios: Mapping[str, Ratio], bar: float, part: float) -> dict[str, Ratio]:
    """Those whose interval reaches a part of the bar, and of where that of the best begins."""
    best = max([bar, *(ratio.low for ratio in ratios.values())])
    return {name: ratio for name, ratio in ratios.items() if ratio.high >= part * best}


def _is_settled(ratio: Ratio, bar: float, doubt: float) -> bool:
    enough = doubt if ratio.low <= bar <= ratio.high else _NARROW
    return ratio.high - ratio.low <= enough * ratio.median


def _ratios(
    wanted: Sequence[str], names: list[str], samples: Nanoseconds, seed: int
) -> dict[str, Ratio]:
    """The baseline's latency over that of others, in the rounds that they took part in."""
    columns = {name: samples[:, names.index(name)] for name in wanted}
    return {
        name: paired_ratio(samples[column > 0, 0], column[column > 0], seed)
        for name, column in columns.items()
    }
