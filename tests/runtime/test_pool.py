"""Processes are used again, unless their model failed, and all end with the pool."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from advconv_onnx.runtime.field import Field
from advconv_onnx.runtime.pool import Pool
from advconv_onnx.runtime.race import race
from tests.runtime.test_timing import children, needs_proc

pytestmark = needs_proc

INPUTS = {"x": np.ones(2, np.float32)}
FAST = {"bar": 0.0, "time_limit": 0.0}


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
        race(
            {"Neg": paths["Neg"], "Abs": paths["Abs"], "": paths["Abs"]}, INPUTS, pool=pool, **FAST
        )
        first = children(os.getpid())
        found = race({"Neg": paths["Neg"], "Abs": paths["Abs"]}, INPUTS, pool=pool, **FAST)
        assert found["Abs"].ratio
        assert children(os.getpid()) == first
        assert len(first) == 3
        race({"Neg": paths["Neg"], "Abs": paths["Abs"]}, INPUTS, **FAST)
        assert children(os.getpid()) == first
    assert not children(os.getpid())


def test_a_process_whose_model_failed_is_replaced(paths: dict[str, Path]) -> None:
    candidates = {"Neg": paths["Neg"], "Foo": paths["Foo"]}
    with Pool() as pool:
        assert race(candidates, INPUTS, pool=pool, **FAST)["Foo"].failure
        assert len(children(os.getpid())) == 1
        candidates["Foo"] = paths["Abs"]
        assert race(candidates, INPUTS, pool=pool, **FAST)["Foo"].ratio
        assert len(children(os.getpid())) == 2


def test_an_interrupt_ends_the_processes_that_are_at_work(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Field, "run_round", interrupt)
    with Pool() as pool:
        with pytest.raises(KeyboardInterrupt):
            race({"Neg": paths["Neg"], "Abs": paths["Abs"]}, INPUTS, pool=pool, **FAST)
        assert not children(os.getpid())
