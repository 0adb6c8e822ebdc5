"""A race goes on for those that may still win, and only until that is clear."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from advconv_onnx.errors import CheckError
from advconv_onnx.records import Figure
from advconv_onnx.runtime.pool import Pool
from advconv_onnx.runtime.race import race
from tests.runtime.test_timing import INPUTS, children, needs_proc
from tests.runtime.test_worker import GREEDY, HANGING


def run(fake: Any, ns: dict[str, int], **options: Any) -> tuple[dict[str, Figure], dict[str, int]]:
    """Race models of these latencies; returns the figures and everyone's number of turns."""
    fake.latency = ns.__getitem__
    fake.order.clear()
    options = {"bar": 1.02, "time_limit": 60.0, **options}
    figures = race({name: Path(name) for name in ns}, INPUTS, **options)
    return figures, {name: fake.order.count(name) for name in ns}


def ratios(figures: dict[str, Figure]) -> dict[str, float]:
    return {name: round(figure.ratio.median, 2) for name, figure in figures.items() if figure.ratio}


def test_whoever_cannot_win_is_timed_no_further(fake: Any) -> None:
    figures, turns = run(fake, {"a": 4000, "b": 2000, "c": 3200, "d": 2100})
    assert turns == {"a": 5, "b": 5, "c": 2, "d": 5}
    assert ratios(figures) == {"b": 2.0, "c": 1.25, "d": 1.9}
    assert {figure.ms for figure in figures.values()} == {0.004}


def test_a_race_ends_when_nobody_reaches_the_bar(fake: Any) -> None:
    figures, turns = run(fake, {"a": 1000, "b": 1100, "c": 3000})
    assert turns == {"a": 5, "b": 5, "c": 2}
    assert ratios(figures) == {"b": 0.91, "c": 0.33}
    assert run(fake, {"a": 1000, "b": 3000, "c": 3000})[1] == {"a": 2, "b": 2, "c": 2}
    assert run(fake, {"a": 1000, "b": 990})[1] == {"a": 5, "b": 5}


def alternating(low: int, high: int) -> Callable[[str], int]:
    turns: dict[str, int] = {}

    def latency(name: str) -> int:
        turns[name] = turns.get(name, 0) + 1
        return 2000 if name == "a" else (low, high)[turns[name] % 2]

    return latency


def test_who_may_win_is_timed_until_the_interval_is_narrow_or_the_time_is_over(fake: Any) -> None:
    def rounds(low: int, high: int, **options: Any) -> int:
        class Ns(dict[str, int]):
            __getitem__ = staticmethod(alternating(low, high))  # type: ignore[assignment]

        return run(fake, Ns(a=0, b=0), **options)[1]["b"]

    assert rounds(1000, 1020) == 5
    assert rounds(1000, 1400) == 100
    assert rounds(1000, 1400, time_limit=0.0) == 5


def test_a_model_that_fails_ends_only_itself(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def latency(name: str) -> int:
        if name == failing:
            raise CheckError("crashed")
        return {"a": 1000, "b": 500, "c": 400}[name]

    failing = "c"
    monkeypatch.setattr(fake, "latency", latency)
    figures = race({name: Path(name) for name in "abc"}, INPUTS, bar=1.0, time_limit=1.0)
    assert figures["c"] == Figure(None, 0.001, "crashed")
    assert ratios(figures) == {"b": 2.0}
    failing = "a"
    with pytest.raises(CheckError, match="'a': crashed"):
        race({name: Path(name) for name in "abc"}, INPUTS, bar=1.0, time_limit=1.0)


@needs_proc
@pytest.mark.parametrize(
    ("body", "limits", "reason"),
    [
        (HANGING, {"timeout": 3}, "no answer within 3 s"),
        (GREEDY, {"memory_limit": 1 << 30}, "bad_alloc|[Mm]emory|allocate"),
    ],
)
def test_candidate_that_hangs_or_takes_all_memory_ends_only_itself(
    tmp_path: Path, body: str, limits: dict[str, Any], reason: str
) -> None:
    paths: dict[str, Path] = {}
    for name, text in {"original": "{ y = Neg(x) }", "bad": body, "same": "{ y = Neg(x) }"}.items():
        paths[name] = tmp_path / f"{name}.onnx"
        header = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) '
        onnx.save(onnx.parser.parse_model(header + text), paths[name])
    same, inputs = paths["same"], {"x": np.ones(2, np.float32)}
    with Pool() as ready:  # a process that starts slowly must not count as one that hangs
        options = {"bar": 0.0, "time_limit": 0.0, "pool": ready}
        race({"a": same, "b": same, "c": same}, inputs, **options)
        figures = race(paths, inputs, **options, **limits)
        assert len(children(os.getpid())) == 2
    assert figures["same"].ratio
    assert re.search(reason, figures["bad"].failure)


def test_what_is_in_doubt_is_timed_longer_where_that_is_asked_for(fake: Any) -> None:
    """A ratio of 1.01 in the median, of single rounds from 0.99 to 1.03."""

    def turns(**options: Any) -> int:
        latency = itertools.cycle((990, 1000, 970, 985, 1005)).__next__
        fake.latency = lambda name: 1000 if name == "a" else latency()
        fake.order.clear()
        race({name: Path(name) for name in "ab"}, INPUTS, bar=1.0, time_limit=60.0, **options)
        return int(fake.order.count("b"))

    assert turns() == 5
    assert 5 < turns(doubt=0.01) <= 100
