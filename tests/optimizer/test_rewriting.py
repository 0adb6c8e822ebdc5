"""Stages are verified and given up when they fail; a rewrite that breaks the model is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx import model as files
from advconv_onnx.optimizer import rewriting as module
from advconv_onnx.optimizer.options import Options
from advconv_onnx.optimizer.prove import Disproved, Prover
from advconv_onnx.optimizer.rewriting import Rewriting
from advconv_onnx.rewriter import simplify
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.fusions import all_rules
from advconv_onnx.rewriter.proposal import Proposal
from advconv_onnx.rewriter.rule import Rule, Site
from tests.optimizer.networks import operators, paddle_block
from tests.parsing import parse


def rewriting(path: Path, **options: Any) -> Rewriting:
    return Rewriting(files.load(path), Options(**options), lambda stage: None)


def by_rule(candidate: module.Candidate) -> dict[str, str]:
    return {rewrite.rule: rewrite.status for rewrite in candidate.rewrites}


def test_a_paddle_block_becomes_three_operators(tmp_path: Path) -> None:
    candidate = rewriting(paddle_block(tmp_path / "m.onnx")).candidate()
    assert operators(candidate.model) == ["Conv", "HardSwish", "Conv"]
    assert candidate.validation.passed
    assert candidate.validation.max_relative < 1e-5
    assert files.opset(candidate.model) == 14
    applied = by_rule(candidate)
    assert (
        applied["raise_opset"] == applied["fold_batchnorm"] == applied["fold_affine"] == "applied"
    )


def test_every_applied_site_carries_its_certificate(tmp_path: Path) -> None:
    candidate = rewriting(paddle_block(tmp_path / "m.onnx")).candidate()
    sites = [r for r in candidate.rewrites if r.nodes and r.status == "applied"]
    assert len(sites) == 4
    assert all("float64 difference" in site.certificate for site in sites)
    exact = {site.rule for site in sites if "integer probe exact" in site.certificate}
    assert exact == {"fold_batchnorm", "fold_affine"}


def test_initializers_listed_as_inputs_are_reported(tmp_path: Path) -> None:
    candidate = rewriting(paddle_block(tmp_path / "m.onnx", listed=True)).candidate()
    assert by_rule(candidate)["unlist_initializers"] == "applied"
    assert [value.name for value in candidate.model.graph.inputs] == ["x"]


def test_a_rule_can_be_left_out(tmp_path: Path) -> None:
    candidate = rewriting(paddle_block(tmp_path / "m.onnx")).candidate(without=["spell_hardswish"])
    assert "HardSwish" not in operators(candidate.model)
    assert "BatchNormalization" not in operators(candidate.model)


def wrong(model: ir.Model, *_: Any) -> ir.Model:
    """The model with one weight changed."""
    copy = model.clone(deep_copy=True)
    weight = copy.graph.initializers["w2"]
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy() * 1.01, name="w2")
    return copy


def test_a_wrong_pass_over_the_whole_model_is_found_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simplify, "fold_constants", wrong)
    candidate = rewriting(paddle_block(tmp_path / "m.onnx")).candidate()
    assert by_rule(candidate)["fold_constants"] == "inaccurate"
    assert by_rule(candidate)["fold_batchnorm"] == "applied"
    assert candidate.validation.max_relative < 1e-5


def test_a_wrong_conversion_is_found_and_the_model_stays_in_its_opset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = simplify.raise_opset
    monkeypatch.setattr(simplify, "raise_opset", lambda *given: wrong(convert(*given)))
    candidate = rewriting(paddle_block(tmp_path / "m.onnx")).candidate()
    assert by_rule(candidate)["raise_opset"] == "inaccurate"
    assert files.opset(candidate.model) == 12
    assert by_rule(candidate)["fold_batchnorm"] == "applied"
    assert candidate.validation.max_relative < 1e-5


def test_a_pass_that_raises_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: Any) -> ir.Model:
        raise RuntimeError("C++ says\nno")

    monkeypatch.setattr(simplify, "fold_constants", crash)
    candidate = rewriting(paddle_block(tmp_path / "m.onnx")).candidate()
    record = next(r for r in candidate.rewrites if r.rule == "fold_constants")
    assert (record.status, record.reason) == ("refused", "C++ says no")
    assert operators(candidate.model) == ["Conv", "HardSwish", "Conv"]


class Spoil(Rule[ir.Value]):
    """Turns HardSwish into HardSigmoid: wrong, and let through by a proof that is switched off."""

    name = "spoil"
    roots = frozenset(("HardSwish",))
    affine_in_weights = False

    def find(self, root: ir.Node, opset: int) -> Site[ir.Value]:
        assert root.inputs[0] is not None
        return Site((root,), root.inputs[0])

    def rewrite(self, op: Builder, plan: ir.Value) -> ir.Value:
        return op.HardSigmoid(plan)


def test_the_rewrite_that_breaks_a_model_is_found_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "all_rules", lambda provider: (*all_rules(provider), Spoil()))
    monkeypatch.setattr(Prover, "prove", lambda *_: "not looked at")
    candidate = rewriting(paddle_block(tmp_path / "m.onnx")).candidate()
    assert operators(candidate.model) == ["Conv", "HardSwish", "Conv"]
    (record,) = [r for r in candidate.rewrites if r.rule == "spoil"]
    assert record.status == "inaccurate"
    assert "differs by" in record.reason
    assert candidate.validation.passed


def test_growth_beyond_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SMALL_GROWTH", -(1 << 30))
    candidate = rewriting(paddle_block(tmp_path / "m.onnx"), max_growth=0.1).candidate()
    record = next(r for r in candidate.rewrites if r.rule == "fold_constants")
    assert record.status == "refused"
    assert "--max-growth" in record.reason
    assert len(operators(candidate.model)) == 9


def test_weights_stay_shared_where_copies_would_grow_the_model_too_much(tmp_path: Path) -> None:
    count = 9
    nodes = " ".join(
        f"a{i} = Conv <dilations = [{i}, 1]> (x, w) y{i} = Mul(a{i}, c)" for i in range(1, count)
    )
    outputs = ", ".join(f"float[N, 64, P{i}, Q] y{i}" for i in range(1, count))
    rng = np.random.default_rng(0)
    model = parse(
        '<ir_version: 8, opset_import: ["" : 15]> g (float[N, 64, H, W] x) '
        f"=> ({outputs}, float[N, 2, P, Q] z) {{ {nodes} o = Conv(x, v) z = Mul(o, c) }}",
        v=rng.normal(size=(2, 64, 1, 1)).astype(np.float32) / 8,
        w=rng.normal(size=(64, 64, 3, 3)).astype(np.float32) / 24,
        c=np.float32(2),
    )
    files.save(model, tmp_path / "m.onnx")
    candidate = rewriting(tmp_path / "m.onnx").candidate()
    assert operators(candidate.model).count("Mul") == count - 1, "all but that of the own weight"
    assert any("more than --max-growth" in record.reason for record in candidate.rewrites)
    grown = rewriting(tmp_path / "m.onnx", max_growth=count).candidate()
    assert operators(grown.model) == ["Conv"] * count


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    source = paddle_block(tmp_path / "m.onnx")
    first, second = (ir.to_proto(rewriting(source).candidate().model) for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()


def test_the_opset_is_not_raised_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disprove(prover: Prover, proposal: Proposal) -> str:
        if proposal.rule.minimum_opset > 12:
            raise Disproved("in this test")
        return "not looked at"

    monkeypatch.setattr(Prover, "prove", disprove)
    candidate = rewriting(paddle_block(tmp_path / "m.onnx")).candidate()
    assert files.opset(candidate.model) == 12
    assert "raise_opset" not in by_rule(candidate)
    assert by_rule(candidate)["fold_batchnorm"] == "applied"


def test_the_original_is_run_in_float64_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    own = module.gather
    monkeypatch.setattr(module, "gather", lambda *a, **k: calls.append(a) or own(*a, **k))
    run = rewriting(paddle_block(tmp_path / "m.onnx"))
    first, second = run.candidate(), run.candidate(["fold_affine"])
    assert first.validation.passed
    assert second.validation.passed
    assert len(calls) == 1
