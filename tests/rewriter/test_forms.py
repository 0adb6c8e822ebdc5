"""The contract every form keeps: examples are rewritten, certified and equal, others refused."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from advconv_onnx import model as files
from advconv_onnx.optimizer.contest import apply, find_choices
from advconv_onnx.optimizer.prove import Prover
from advconv_onnx.rewriter import forms
from advconv_onnx.rewriter.forms.form import Form
from advconv_onnx.runtime.probe import difference, integer_inputs
from tests.rewriter.test_fusions import assert_equal_in_onnxruntime, parse, to_bytes

MODULES: dict[str, Any] = {
    info.name: importlib.import_module(f"{forms.__name__}.{info.name}")
    for info in pkgutil.iter_modules(forms.__path__)
    if info.name != "form"
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

ROUNDING = 1e-5
"""Of the largest output in float64: what new weights lose when they are rounded to float32."""


def rewritten(model: ir.Model, own: tuple[Form[Any], ...]) -> Iterator[tuple[ir.Model, str]]:
    """The model with each form of each site, and the certificate."""
    choices, records = find_choices(model, own, Prover(dict(model.opset_imports), 0))
    assert all(record.status == "refused" for record in records), records
    for choice in choices:
        changed = model.clone()
        assert apply(changed, choice) is None
        yield changed, choice.certificate


def test_forms_are_found_by_presence_and_have_names_of_their_own() -> None:
    names = [form.name for form in forms.all_forms()]
    assert len(set(names)) == len(names)
    assert {form.name for module in MODULES.values() for form in module.FORMS} == set(names)
    assert all(module.EXAMPLES and module.NEAR_MISSES for module in MODULES.values())


@pytest.mark.parametrize(("module", "text"), EXAMPLES)
def test_example_is_rewritten_certified_and_equal(module: Any, text: str) -> None:
    model = parse(text)
    rng = np.random.default_rng(1)
    inputs = [
        {
            name: rng.normal(size=a.shape, scale=2) if a.dtype.kind == "f" else a
            for name, a in integers.items()
        }
        for integers in integer_inputs(model, rng, keep_shapes=True)
    ]
    count = 0
    small = tuple(form.small for form in module.FORMS if form.small)
    for changed, certificate in rewritten(model, (*module.FORMS, *small)):
        count += 1
        assert "exact" in certificate
        files.infer_shapes(changed)
        onnx.checker.check_model(ir.to_proto(changed))
        found = [difference(model, changed, given) for given in inputs]
        gaps, largest = zip(*filter(None, found), strict=True)
        assert max(gaps) <= ROUNDING * max(largest)
        for given in inputs[:2]:
            assert_equal_in_onnxruntime(model, changed, given)
    assert count, "no variant rewrites this example"


@pytest.mark.parametrize(("module", "text", "reason"), NEAR_MISSES)
def test_near_miss_is_refused_with_its_reason(module: Any, text: str, reason: str) -> None:
    model = parse(text)
    before = to_bytes(model)
    choices, records = find_choices(model, module.FORMS, Prover(dict(model.opset_imports), 0))
    assert not choices
    assert all(record.status == "refused" for record in records), records
    reasons = " ".join(record.reason for record in records)
    assert reason in reasons if reason else not reasons
    assert to_bytes(model) == before
