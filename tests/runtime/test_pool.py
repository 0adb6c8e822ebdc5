"""Processes are used again, unless their model failed, and all end with the pool."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from advconv_onnx.runtime.pool import Pool
from advconv_onnx.runtime.timing import measure
from tests.runtime.test_timing import children, needs_proc

pytestmark = needs_proc

INPUTS = {"x": np.ones(2, np.float32)}


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    """Models by operator; Foo does not load."""
    found = {}
    for op in ("Neg", "Abs", "Foo"):
        header = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) '
        found[op] = tmp_path / f"{op}.onnx"
        onnx.save(onnx.parser.parse_model(f"{header} {{ y = {op}(x) }}"), found[op])
    return found


def test_processes_are_used_again(paths: dict[str, Path]) -> None:
    with Pool() as pool:
        measure({"Neg": paths["Neg"], "Abs": paths["Abs"]}, INPUTS, rounds=2, pool=pool)
        first = children(os.getpid())
        found = measure({"Abs": paths["Abs"]}, INPUTS, rounds=2, pool=pool)
        assert found.timings[0].latency.median > 0
        assert children(os.getpid()) == first
        assert len(first) == 3
        measure({"Abs": paths["Abs"]}, INPUTS, rounds=2)
        assert children(os.getpid()) == first
    assert not children(os.getpid())


def test_a_process_whose_model_failed_is_replaced(paths: dict[str, Path]) -> None:
    candidates = {"Neg": paths["Neg"], "Foo": paths["Foo"]}
    with Pool() as pool:
        assert list(measure(candidates, INPUTS, rounds=2, pool=pool).failures) == ["Foo"]
        assert len(children(os.getpid())) == 2
        candidates["Foo"] = paths["Abs"]
        found = measure(candidates, INPUTS, rounds=2, pool=pool)
        assert not found.failures
        assert len(children(os.getpid())) == 3


def test_an_interrupt_ends_the_processes_that_are_at_work(paths: dict[str, Path]) -> None:
    def interrupt(done: int, expected: int) -> None:
        raise KeyboardInterrupt

    with Pool() as pool:
        with pytest.raises(KeyboardInterrupt):
            measure({"Neg": paths["Neg"]}, INPUTS, pool=pool, progress=interrupt)
        assert not children(os.getpid())
