"""Records as JSON: what the command line's ``--json`` writes, schema 1."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from advconv_onnx.records import (
    Artifact,
    Bench,
    Built,
    Comparison,
    Decision,
    Doctor,
    Inference,
    Inspection,
    Measurement,
    Report,
    Run,
    Validation,
)

_VERSION = {"schema": 1}

Json = dict[str, Any]


def optimization(report: Report) -> Json:
    """Return the report of ``optimize``; ``latency`` only where it was measured."""
    document = _VERSION | {
        "model": _plain(report.model),
        "optimized": _plain(report.optimized),
        "device": _plain(report.device),
    }
    if report.measurement is not None:
        document["latency"] = _latency(report.measurement)
    document["error"] = {
        "max_relative": _plain(report.validation.max_relative),
        "inputs": report.validation.inputs,
    }
    document["rewrites"] = _plain(report.rewrites)
    return document


def _latency(measurement: Measurement) -> Json:
    original, optimized = measurement.timings
    return {
        "original_ms": _plain(original.latency),
        "optimized_ms": _plain(optimized.latency),
        "speedup": _plain(optimized.speedup),
    }


def inspection(found: Inspection) -> Json:
    """Return the layers of a model and their totals."""
    return _VERSION | _fields(found)


def validation(found: Validation) -> Json:
    """Return the verdict on two models, with the evidence."""
    return _VERSION | _fields(found) | {"max_relative": _plain(found.max_relative)}


def bench(runs: Sequence[Bench]) -> Json:
    """Return the paired measurements, one per provider."""
    return _VERSION | {"runs": _plain(runs)}


def built(found: Built) -> Json:
    """Return what was built."""
    return _VERSION | _fields(found)


def comparison(found: Comparison) -> Json:
    """Return kinds of convolution with their costs and latencies."""
    return _VERSION | _fields(found)


def doctor(found: Doctor) -> Json:
    """Return what works on this machine."""
    return _VERSION | _fields(found)


def decisions(found: Sequence[Decision]) -> Json:
    """Return what is in the cache."""
    return _VERSION | {"decisions": _plain(found)}


def artifact(found: Artifact) -> Json:
    """Return what a model was converted to."""
    return _VERSION | _fields(found) | {"max_relative": _plain(found.validation.max_relative)}


def run(found: Run) -> Json:
    """Return what became of the files that a model was run on."""
    return _VERSION | _fields(found) | {"per_second": found.per_second}


def inference(found: Inference) -> Json:
    """Return the outputs of one inference in figures."""
    return _VERSION | _fields(found)


def dumps(document: Json) -> str:
    """Spell a document as strict JSON text that ends with a newline."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _fields(record: Any) -> Json:
    return {field.name: _plain(getattr(record, field.name)) for field in dataclasses.fields(record)}


def _plain(value: Any) -> Any:
    """Turn records into what JSON has; infinities and NaN, which it has not, become null."""
    if dataclasses.is_dataclass(value):
        return _fields(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
