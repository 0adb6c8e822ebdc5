"""Rates are what was done over the time it took; an inference that fails is an error."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.errors import CheckError
from advconv_onnx.runtime import peak as module
from advconv_onnx.runtime.peak import Peak, best_ms, peak


def test_rates_are_work_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    took = {"MatMul": 4.0, "Neg": 2.0}
    monkeypatch.setattr(module, "best_ms", lambda model, *rest: took[model.graph[0].op_type])
    assert peak.__wrapped__("cpu", 1) == Peak(1024**3 / 4.0, 4 * 1024**2 / 2.0)


def test_the_fastest_inference_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((5.0, 3.0, 4.0, 9.0, 8.0))
    monkeypatch.setattr(module, "_ms", lambda session, inputs: next(times))
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Sin(x) }'
    )
    assert best_ms(model, {"x": np.ones(2, np.float32)}, "cpu", 1) == 3.0
    with pytest.raises(CheckError):
        best_ms(model, {"x": np.ones(3, np.float32)}, "cpu", 1)
