"""A candidate that measures slower is taken apart rule by rule, down to the original."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from advconv_onnx import model as files
from advconv_onnx.optimizer.decide import Trial, decide
from advconv_onnx.optimizer.options import Options
from advconv_onnx.optimizer.rewriting import Candidate, Rewriting
from advconv_onnx.records import Latency, Measurement, Ratio, Timing
from tests.optimizer.networks import operators, paddle_block


@pytest.fixture
def rewriting(tmp_path: Path) -> Rewriting:
    original = files.load(paddle_block(tmp_path / "m.onnx"))
    return Rewriting(original, Options(), lambda stage: None)


@dataclasses.dataclass(frozen=True)
class Told(Trial):
    """A trial whose clock is told which operators cost how much, per node."""

    costs: dict[str, float] = dataclasses.field(default_factory=dict)
    seeds: list[int] = dataclasses.field(default_factory=list)

    def measure(self, candidates: dict[str, Candidate], seed: int) -> Measurement:
        self.seeds.append(seed)

        def timing(name: str, cost: float) -> Timing:
            ratio = 10 / cost
            return Timing(name, Latency(cost, cost), Ratio(ratio, ratio * 0.99, ratio * 1.01))

        costs = {
            name: sum(self.costs.get(operator, 1.0) for operator in operators(candidate.model))
            for name, candidate in candidates.items()
        }
        timings = (timing("original", 10.0), *(timing(n, c) for n, c in costs.items()))
        return Measurement(timings, Ratio(1, 0.99, 1.01), 20, "x=1x3x8x8")


def trial(tmp_path: Path, costs: dict[str, float], deadline: float = float("inf")) -> Told:
    baseline = tmp_path / "m.onnx"
    inputs = {"x": np.zeros((1, 3, 8, 8), np.float32)}
    return Told(baseline, inputs, Options(), deadline, tmp_path, costs)


def test_a_faster_candidate_is_kept_and_timed_again_with_another_seed(
    tmp_path: Path, rewriting: Rewriting
) -> None:
    told = trial(tmp_path, {})
    kept, measurement = decide(told, rewriting, rewriting.candidate(), lambda stage: None)
    assert operators(kept.model) == ["Conv", "HardSwish", "Conv"]
    assert measurement.timings[1].speedup.median == pytest.approx(10 / 3)
    assert len(set(told.seeds)) == 2


def test_the_rule_that_costs_most_is_left_out(tmp_path: Path, rewriting: Rewriting) -> None:
    told = trial(tmp_path, {"HardSwish": 50.0})
    kept, _ = decide(told, rewriting, rewriting.candidate(), lambda stage: None)
    assert operators(kept.model).count("HardSwish") == 0
    assert operators(kept.model).count("Conv") == 2
    assert "BatchNormalization" not in operators(kept.model)
    status = {r.rule: r.status for r in kept.rewrites if r.nodes and r.status != "refused"}
    assert status["spell_hardswish"] == "slower"
    assert status["fold_batchnorm"] == "applied"
    assert kept.validation.passed


def test_the_last_resort_is_the_original(tmp_path: Path, rewriting: Rewriting) -> None:
    told = trial(tmp_path, {"Conv": 50.0})
    kept, _ = decide(told, rewriting, rewriting.candidate(), lambda stage: None)
    assert operators(kept.model) == operators(files.load(tmp_path / "m.onnx"))
    assert {r.status for r in kept.rewrites} <= {"slower", "refused"}


def test_after_the_deadline_nothing_else_is_tried(tmp_path: Path, rewriting: Rewriting) -> None:
    told = trial(tmp_path, {"HardSwish": 50.0}, deadline=0.0)
    kept, _ = decide(told, rewriting, rewriting.candidate(), lambda stage: None)
    assert operators(kept.model) == operators(files.load(tmp_path / "m.onnx"))
    assert len(told.seeds) == 2
