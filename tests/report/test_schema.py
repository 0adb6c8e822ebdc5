"""The JSON has exactly the documented keys, and nothing that is not JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from advconv_onnx.records import TensorCheck, Validation
from advconv_onnx.report import schema

from .records import BENCH, DOCTOR, INSPECTION, REPORT, VALIDATION

MODEL = {"path", "sha256", "nodes", "parameters", "macs", "bytes", "opset"}


def parsed(document: dict[str, Any]) -> dict[str, Any]:
    text = schema.dumps(document)
    assert text.endswith("}\n")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    result: dict[str, Any] = json.loads(text, parse_constant=refuse)
    assert result["schema"] == 1
    return result


def test_optimization_has_the_documented_keys() -> None:
    found = parsed(schema.optimization(REPORT))
    assert set(found) == {
        "schema", "model", "optimized", "device", "latency", "error", "rewrites",
    }  # fmt: skip
    assert set(found["model"]) == set(found["optimized"]) == MODEL
    assert found["model"]["nodes"] == 330
    assert found["optimized"]["macs"] is None
    assert set(found["device"]) == {"provider", "threads", "processor", "onnxruntime"}
    assert found["latency"] == {
        "original_ms": {"median": 80.0, "p90": 90.0},
        "optimized_ms": {"median": 40.0, "p90": 44.0},
        "speedup": {"median": 2.0, "low": 1.9, "high": 2.1},
    }
    assert found["error"] == {"max_relative": 2e-6, "inputs": 9}
    assert found["rewrites"][1] == {
        "rule": "fold_affine",
        "nodes": ["Add.1"],
        "status": "applied",
        "reason": "",
        "certificate": "integer probe exact on 5 shapes",
        "speedup": None,
    }


def test_latency_is_left_out_when_nothing_was_measured() -> None:
    found = parsed(schema.optimization(dataclasses.replace(REPORT, measurement=None)))
    assert "latency" not in found


def test_an_inspection_keeps_unknown_sizes_apart_from_names() -> None:
    found = parsed(schema.inspection(INSPECTION))
    assert found["separable"] == [[0, 1]]
    assert found["layers"][0]["kernel_shape"] == [3, 3]
    assert found["layers"][2]["input_shape"] == ["N", 8, None, None]
    assert found["layers"][2]["costs"] == {"parameters": None, "macs": None, "bytes": None}


def test_a_validation_has_its_verdict_and_its_worst_error() -> None:
    found = parsed(schema.validation(VALIDATION))
    assert (found["passed"], found["max_relative"]) == (True, 2e-6)
    assert found["checks"][1]["stands_for"] == "z"


def test_infinite_errors_are_null() -> None:
    broken = Validation(False, 1e-4, (TensorCheck("y", math.inf, math.nan),), 1, ("x=1",))
    found = parsed(schema.validation(broken))
    assert found["max_relative"] is None
    assert found["checks"] == [
        {"tensor": "y", "max_relative": None, "range": None, "stands_for": ""}
    ]


def test_a_bench_has_a_run_per_provider() -> None:
    [run] = parsed(schema.bench([BENCH]))["runs"]
    assert run["device"]["provider"] == "cuda"
    assert run["measurement"]["noise"] == {"median": 1.001, "low": 0.99, "high": 1.01}
    assert run["measurement"]["failures"] == {"broken.onnx": "no answer within 120 s"}
    assert len(run["placements"]["optimized"]["elsewhere"]) == 7


def test_doctor_tells_a_missing_package_by_its_version() -> None:
    found = parsed(schema.doctor(DOCTOR))
    assert [package["version"] for package in found["packages"]] == ["1.23.2", None]
    assert found["providers"][1]["available"] is False
