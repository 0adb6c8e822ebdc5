"""The contract every fusion keeps: its examples are rewritten and equal, near misses refused."""

from __future__ import annotations

import importlib
import pkgutil

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from advconv_onnx import model as files
from advconv_onnx.optimizer.prove import SITE_TOLERANCE, prove
from advconv_onnx.optimizer.transaction import fuse
from advconv_onnx.rewriter import fusions
from advconv_onnx.rewriter.rule import Matcher, Proposal, Refusal, commit, names_in
from advconv_onnx.runtime.probe import difference, integer_inputs

MODULES = {
    info.name: importlib.import_module(f"{fusions.__name__}.{info.name}")
    for info in pkgutil.iter_modules(fusions.__path__)
}
EXAMPLES = [
    pytest.param(module, text, id=f"{name}-{index}")
    for name, module in MODULES.items()
    for index, text in enumerate(module.EXAMPLES)
]
NEAR_MISSES = [
    pytest.param(module, *miss, id=f"{name}-{index}")
    for name, module in MODULES.items()
    for index, miss in enumerate(module.NEAR_MISSES)
]


def parse(text: str) -> ir.Model:
    model = ir.from_proto(onnx.parser.parse_model(text))
    files.infer_shapes(model)
    return model


def proposals(module: object, model: ir.Model) -> list[Proposal | Refusal]:
    matcher = Matcher(module.RULE)
    found = [matcher.propose(model, model.graph, node) for node in model.graph]
    return [proposal for proposal in found if proposal is not None]


def test_a_rule_is_named_for_its_file() -> None:
    assert {name: module.RULE.name for name, module in MODULES.items()} == {n: n for n in MODULES}
    assert [rule.name for rule in fusions.all_rules()] == sorted(MODULES)


@pytest.mark.parametrize(("module", "text"), EXAMPLES)
def test_example_is_rewritten_proved_and_equal(module: object, text: str) -> None:
    model = parse(text)
    untouched = model.clone(deep_copy=True)
    (proposal,) = proposals(module, model)
    assert isinstance(proposal, Proposal), proposal.reason
    assert "difference" in prove(Matcher(module.RULE), proposal, dict(model.opset_imports), seed=0)
    commit(model.graph, proposal, names_in(model))
    onnx.checker.check_model(ir.to_proto(model))
    rng = np.random.default_rng(1)
    found = []
    for integers in integer_inputs(untouched, rng, keep_shapes=True):
        inputs = {name: rng.normal(size=a.shape) for name, a in integers.items()}
        found.append(difference(untouched, model, inputs))
    gaps, largest = zip(*filter(None, found), strict=True)
    assert max(gaps) <= SITE_TOLERANCE * max(largest)
    assert not [p for p in proposals(module, model) if isinstance(p, Proposal)], "not idempotent"


@pytest.mark.parametrize(("module", "text"), EXAMPLES)
def test_fuse_applies_the_rule_to_its_example(module: object, text: str) -> None:
    """It skips rules by ``needs_any_of``, which must not leave out a spelling."""
    (record,) = fuse(parse(text), [module.RULE], seed=0).applied
    assert record.rule == module.RULE.name


@pytest.mark.parametrize(("module", "text", "reason"), NEAR_MISSES)
def test_near_miss_is_refused_with_its_reason(module: object, text: str, reason: str) -> None:
    model = parse(text)
    before = ir.to_proto(model).SerializeToString()
    found = proposals(module, model)
    assert all(isinstance(refusal, Refusal) for refusal in found)
    if reason:
        assert reason in " ".join(refusal.reason for refusal in found)
    else:
        assert not found
    assert ir.to_proto(model).SerializeToString() == before
