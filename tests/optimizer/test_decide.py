"""A candidate that measures slower is taken apart rule by rule, down to the original."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx import model as files
from advconv_onnx.optimizer import decide
from advconv_onnx.optimizer.cache import Cache
from advconv_onnx.optimizer.decide import Trial, keep_forms, keep_fusions
from advconv_onnx.optimizer.options import Options
from advconv_onnx.optimizer.rewriting import Candidate, Rewriting
from advconv_onnx.optimizer.search import Found
from advconv_onnx.records import Figure, Ratio, Rewrite, Validation
from tests.optimizer.networks import operators, paddle_block


@pytest.fixture
def rewriting(tmp_path: Path) -> Rewriting:
    original = files.load(paddle_block(tmp_path / "m.onnx"))
    return Rewriting(original, Options(), lambda stage: None)


@dataclasses.dataclass(frozen=True)
class Told(Trial):
    """A trial whose clock is told which operators cost how much, per node."""

    costs: dict[str, float] = dataclasses.field(default_factory=dict)
    races: list[int] = dataclasses.field(default_factory=list)

    def race(
        self, candidates: Mapping[str, Candidate], baseline: Candidate | None = None
    ) -> dict[str, Figure]:
        self.races.append(len(candidates))
        original = 10.0 if baseline is None else self._cost(baseline)
        ratios = {name: original / self._cost(model) for name, model in candidates.items()}
        return {name: Figure(Ratio(r, r * 0.99, r * 1.01), original) for name, r in ratios.items()}

    def _cost(self, candidate: Candidate) -> float:
        return sum(self.costs.get(operator, 1.0) for operator in operators(candidate.model))


def trial(tmp_path: Path, costs: dict[str, float], deadline: float = float("inf")) -> Told:
    baseline = tmp_path / "m.onnx"
    inputs = {"x": np.zeros((1, 3, 8, 8), np.float32)}
    return Told(baseline, (), inputs, Options(), deadline, tmp_path, Cache("here"), costs)


def test_a_faster_candidate_is_kept(tmp_path: Path, rewriting: Rewriting) -> None:
    told = trial(tmp_path, {})
    kept = keep_fusions(told, rewriting, lambda stage: None)
    assert operators(kept.model) == ["Conv", "HardSwish", "Conv"]


def test_the_rule_that_costs_most_is_left_out(tmp_path: Path, rewriting: Rewriting) -> None:
    told = trial(tmp_path, {"HardSwish": 50.0})
    kept = keep_fusions(told, rewriting, lambda stage: None)
    assert operators(kept.model).count("HardSwish") == 0
    assert operators(kept.model).count("Conv") == 2
    assert "BatchNormalization" not in operators(kept.model)
    status = {r.rule: r.status for r in kept.rewrites if r.nodes and r.status != "refused"}
    assert status["spell_hardswish"] == "slower"
    assert status["fold_batchnorm"] == "applied"
    assert kept.validation.passed


def test_the_last_resort_is_the_original(tmp_path: Path, rewriting: Rewriting) -> None:
    told = trial(tmp_path, {"Conv": 50.0})
    kept = keep_fusions(told, rewriting, lambda stage: None)
    assert operators(kept.model) == operators(files.load(tmp_path / "m.onnx"))
    assert {r.status for r in kept.rewrites} <= {"slower", "refused"}


def test_after_the_deadline_nothing_else_is_tried(tmp_path: Path, rewriting: Rewriting) -> None:
    told = trial(tmp_path, {"HardSwish": 50.0}, deadline=0.0)
    kept = keep_fusions(told, rewriting, lambda stage: None)
    assert operators(kept.model) == operators(files.load(tmp_path / "m.onnx"))
    assert len(told.races) == 1


@dataclasses.dataclass(frozen=True)
class Offered:
    """A search that came to a form per operator it adds to the fused model."""

    fused: Candidate
    forms: dict[str, float]

    def result(self, without: tuple[str, ...] = ()) -> Found:
        model = self.fused.model.clone()
        names = [name for name in self.forms if name not in without]
        for name in names:
            last = model.graph.outputs[0].producer()
            node = ir.node(name, [last.outputs[0]])
            node.outputs[0].name = name
            node.outputs[0].type, node.outputs[0].shape = (
                last.outputs[0].type,
                last.outputs[0].shape,
            )
            model.graph.append(node)
            model.graph.outputs[0] = node.outputs[0]
        rewrites = tuple(Rewrite(name, ("n",), "applied") for name in names)
        return Found(model, rewrites, sum(self.forms[name] for name in names))


class Trusting(Rewriting):
    """Forms that are operators of no meaning need no comparison."""

    def validate(self, model: ir.Model) -> Validation:
        return Validation(True, 1e-4, (), 0, ())


def keep(tmp_path: Path, costs: dict[str, float], **promised: float) -> tuple[Candidate, Told]:
    original = files.load(paddle_block(tmp_path / "m.onnx"))
    fused = Trusting(original, Options(), lambda stage: None)
    candidate = fused.candidate()
    told = trial(tmp_path, costs)
    return keep_forms(told, fused, candidate, Offered(candidate, promised), lambda s: None), told


def statuses(candidate: Candidate, *names: str) -> list[str]:
    return [record.status for record in candidate.rewrites if record.rule in names]


def test_forms_that_keep_their_promise_are_kept_after_one_measurement(tmp_path: Path) -> None:
    kept, told = keep(tmp_path, {"Abs": -1.0, "Exp": -1.0}, Abs=1.0, Exp=1.0)
    assert operators(kept.model)[-2:] == ["Abs", "Exp"]
    assert statuses(kept, "Abs", "Exp") == ["applied", "applied"]
    assert len(told.races) == 1


def test_the_form_that_breaks_the_promise_is_taken_back(tmp_path: Path) -> None:
    kept, _ = keep(tmp_path, {"Abs": -1.0, "Exp": 0.5}, Abs=1.0, Exp=1.0)
    assert operators(kept.model)[-1] == "Abs"
    assert "Exp" not in operators(kept.model)


def test_forms_that_gain_less_than_promised_but_something_stay(tmp_path: Path) -> None:
    kept, _ = keep(tmp_path, {"Abs": -0.2, "Exp": -0.2}, Abs=1.0, Exp=1.0)
    assert operators(kept.model)[-2:] == ["Abs", "Exp"]


def test_without_a_gain_the_fused_model_stays(tmp_path: Path) -> None:
    kept, _ = keep(tmp_path, {"Abs": 1.0, "Exp": 1.0}, Abs=1.0, Exp=1.0)
    assert not {"Abs", "Exp"} & set(operators(kept.model))


@pytest.fixture
def raced(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Who was in each race; all win, and nothing is kept beyond the test."""
    monkeypatch.setenv("ADVCONV_CACHE", "off")
    races: list[list[str]] = []

    def race(paths: Mapping[str, Path], *inputs: object, **options: object) -> dict[str, Figure]:
        races.append(list(paths))
        return {name: Figure(Ratio(1.5, 1.4, 1.6), 10.0) for name in list(paths)[1:]}

    monkeypatch.setattr(decide, "race", race)
    return races


def test_equal_files_do_not_race_again(
    tmp_path: Path, rewriting: Rewriting, raced: list[list[str]]
) -> None:
    inputs = {"x": np.zeros((1, 3, 8, 8), np.float32)}
    real = Trial(tmp_path / "m.onnx", (), inputs, Options(), float("inf"), tmp_path, Cache("here"))
    fused, original = rewriting.candidate(), rewriting.untouched((), "slower", "")
    first = real.race({"fused": fused})
    assert real.race({"": fused, "original": original})[""] == first["fused"]
    assert raced == [["baseline", "fused"], ["baseline", "original"]]
    real.race({"original": original}, baseline=fused)
    larger = {"x": np.zeros((2, 3, 8, 8), np.float32)}
    dataclasses.replace(real, inputs=larger).race({"fused": fused})
    assert raced[2:] == [["baseline", "original"], ["baseline", "fused"]]


def test_a_race_in_a_hurry_is_forgotten(
    tmp_path: Path, rewriting: Rewriting, raced: list[list[str]]
) -> None:
    inputs = {"x": np.zeros((1, 3, 8, 8), np.float32)}
    late = Trial(tmp_path / "m.onnx", (), inputs, Options(), 0.0, tmp_path, Cache("here"))
    for _ in range(2):
        late.race({"fused": rewriting.candidate()})
    assert len(raced) == 2
