"""The demo without a network, at the quick level."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


def test_without_a_registry_an_installed_model_is_optimized(
    no_registry: object,
    run_sample: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The reader's own result must stay where it is.
    monkeypatch.chdir(tmp_path)
    run = run_sample("demo.py", "--level", "fuse")
    assert run.returncode == 0, run.stderr
    assert "cannot fetch rapidocr-onnxruntime==1.4.4" in run.stdout
    assert "$ advconv optimize" in run.stdout
    assert "light_inception_v2.onnx" in run.stdout
    assert (tmp_path / "demo" / "optimized.onnx").exists()
