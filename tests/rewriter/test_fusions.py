"""The contract every fusion keeps: its examples are rewritten and equal, near misses refused."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from advconv_onnx.errors import CheckError
from advconv_onnx.optimizer.prove import SITE_TOLERANCE
from advconv_onnx.optimizer.transaction import fuse
from advconv_onnx.rewriter import fusions
from advconv_onnx.rewriter.simplify import settle
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.probe import difference, integer_inputs
from advconv_onnx.runtime.session import open_session

MODULES: dict[str, Any] = {
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

FLOAT32_TOLERANCE = 1e-4
"""Of the largest output in ONNX Runtime; tiny variances magnify float32's rounding."""


def parse(text: str) -> ir.Model:
    return settle(ir.from_proto(onnx.parser.parse_model(text)))


def to_bytes(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def test_a_rule_is_named_for_its_file() -> None:
    assert {name: module.RULE.name for name, module in MODULES.items()} == {n: n for n in MODULES}
    assert [rule.name for rule in fusions.all_rules()] == sorted(MODULES)
    assert all(module.EXAMPLES and module.NEAR_MISSES for module in MODULES.values())


@pytest.mark.parametrize(("module", "text"), EXAMPLES)
def test_example_is_rewritten_proved_and_equal(module: Any, text: str) -> None:
    model = parse(text)
    result = fuse(model, [module.RULE], seed=0)
    (record,) = result.applied
    assert record.rule == module.RULE.name
    assert "difference" in record.certificate
    onnx.checker.check_model(ir.to_proto(result.model))
    rng = np.random.default_rng(1)
    found = []
    for integers in integer_inputs(model, rng, keep_shapes=True):
        inputs = {
            name: rng.normal(size=a.shape, scale=2) if a.dtype.kind == "f" else a
            for name, a in integers.items()
        }
        found.append(difference(model, result.model, inputs))
        assert_equal_in_onnxruntime(model, result.model, inputs)
    gaps, largest = zip(*filter(None, found), strict=True)
    assert max(gaps) <= SITE_TOLERANCE * max(largest)
    again = fuse(result.model, [module.RULE], seed=0)
    assert not again.applied, "not idempotent"


def assert_equal_in_onnxruntime(
    model: ir.Model, other: ir.Model, inputs: dict[str, np.ndarray]
) -> None:
    """What runs before must run after, with equal results."""
    given = {
        value.name: inputs[value.name].astype(value.dtype.numpy()) for value in model.graph.inputs
    }
    try:
        want = run_session(open_session(model, graph_optimizations=False, threads=1), given)
    except CheckError:
        return  # A shape or an opset that this ONNX Runtime does not take.
    used = {value.name for value in other.graph.inputs}
    session = open_session(other, graph_optimizations=False, threads=1)
    got = run_session(session, {name: a for name, a in given.items() if name in used})
    for name, array in want.items():
        assert got[name].dtype == array.dtype
        assert got[name].shape == array.shape
        scale = np.abs(array.astype(np.float64)).max(initial=1e-30)
        gap = np.abs(got[name].astype(np.float64) - array.astype(np.float64)).max(initial=0)
        assert gap <= FLOAT32_TOLERANCE * scale


@pytest.mark.parametrize(("module", "text", "reason"), NEAR_MISSES)
def test_near_miss_is_refused_with_its_reason(module: Any, text: str, reason: str) -> None:
    model = parse(text)
    before = to_bytes(model)
    result = fuse(model, [module.RULE], seed=0)
    assert not result.applied
    assert all(record.status == "refused" for record in result.refused), result.refused
    reasons = " ".join(record.reason for record in result.refused)
    assert reason in reasons if reason else not reasons
    assert to_bytes(model) == before
