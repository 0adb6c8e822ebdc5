"""ONNX Runtime's format: loads, computes the same, and says what a minimal build needs."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from advconv_onnx import model as files
from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.exporters import ort_format
from advconv_onnx.exporters.ort_format import export
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session
from tests.parsing import normal, parse

NODES = "a = Conv <pads = [1, 1, 1, 1]> (x, w) b = Relu (a) z = Conv (b, w)"


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_format, "_SECONDS", 0.01)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    head = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 16, H, W] x)'
    text = f"{head} => (float[N, 16, P, Q] z) {{ {NODES} }}"
    files.save(parse(text, w=normal(16, 16, 3, 3)), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_what_is_written_computes_the_same(model: Path, tmp_path: Path) -> None:
    artifact = export(model, tmp_path / "m.ort")
    assert artifact.validation.passed
    assert 0 < artifact.validation.max_relative < 1e-5
    x = normal(2, 16, 9, 8)
    found, want = (
        run_session(open_session(path), {"x": x})["z"] for path in (tmp_path / "m.ort", model)
    )
    assert np.abs(found - want).max() < 1e-5 * np.ptp(want)


def test_it_fits_other_processors(model: Path, tmp_path: Path) -> None:
    export(model, tmp_path / "m.ort")
    assert "nchwc" not in (tmp_path / "m.required_operators.config").read_text()


def test_layouts_of_this_processor_when_asked(model: Path, tmp_path: Path) -> None:
    artifact = export(model, tmp_path / "m.ort", this_processor=True)
    blocked = ort.InferenceSession(tmp_path / "m.ort", providers=["CPUExecutionProvider"])
    assert blocked.get_inputs()[0].name == "x"
    needed = (tmp_path / "m.required_operators.config").read_text()
    # Only on processors for which ONNX Runtime has blocked layouts.
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    assert ("nchwc" in needed) == is_x86
    assert "times as fast" in artifact.notes[0]


def test_the_operators_that_are_needed(model: Path, tmp_path: Path) -> None:
    artifact = export(model, tmp_path / "m.ort")
    config = tmp_path / "m.required_operators.config"
    assert artifact.files == (str(tmp_path / "m.ort"), str(config))
    assert "com.microsoft;1;FusedConv" in config.read_text()
    assert "ai.onnx;11;Conv" in config.read_text()


def test_another_result_is_not_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(session: ort.InferenceSession, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: y + 1 for name, y in run_session(session, inputs).items()}

    monkeypatch.setattr(ort_format, "run_session", off)
    with pytest.raises(CheckError, match="differs by"):
        export(model, tmp_path / "m.ort")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_another_name(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"end it in \.ort"):
        export(model, tmp_path / "m.bin")


def test_more_than_the_format_holds(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort_format, "_LARGEST", 1 << 10)
    with pytest.raises(CheckError, match="2 GiB"):
        export(model, tmp_path / "m.ort")
