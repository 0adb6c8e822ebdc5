"""The digits sample as its reader runs it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import advconv_onnx
from advconv_onnx.exporters import bundle_check

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_no_step_loses_accuracy(run_sample: Run, tmp_path: Path) -> None:
    run = run_sample("deploy_digits.py", "--out", str(tmp_path / "made"))
    assert run.returncode == 0, run.stdout + run.stderr
    stated = [float(share) for share in re.findall(r"([\d.]+)%  ", run.stdout)]
    assert len(stated) == 7
    # Chance is 10 %; a linear classifier on these digits reaches 95 %.
    assert min(stated) > 97
    assert bundle_check.check(tmp_path / "made" / "digits.zip").passed
    (x,) = advconv_onnx.load(tmp_path / "made" / "quantized.onnx").graph.inputs
    assert (x.dtype.name, x.shape[1:]) == ("UINT8", (32, 32, 1))


def test_a_folder_that_is_there_is_kept(run_sample: Run, tmp_path: Path) -> None:
    run = run_sample("deploy_digits.py", "--out", str(tmp_path))
    assert run.returncode == 2
    assert "exists" in run.stderr
    assert len(run.stderr.splitlines()) == 1
