"""The page that is read by all versions of a model, as its reader runs it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

import deploy_ocr
import pytest
from fetch_models import Unavailable, model_path

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_all_versions_read_the_page(run_sample: Run) -> None:
    try:
        model_path("ppocr_det")
    except Unavailable as error:
        pytest.skip(str(error))
    run = run_sample("deploy_ocr.py", "--seconds", "1")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "All versions in float32 read the same." in run.stdout
    shares = dict(re.findall(r"│ (\S[^│]*\S) +│ +([\d.]+)%", run.stdout))
    assert shares.keys() == {"published", "optimized", "int8", "ort", "ort, this processor"}
    assert all(float(share) > 95 for share in shares.values())


def test_accuracy_counts_edits() -> None:
    assert deploy_ocr.accuracy("kitten", "kitten") == 1
    assert deploy_ocr.accuracy("sitting", "kitten") == pytest.approx(0.5)
    assert deploy_ocr.accuracy("", "four") == 0
    assert deploy_ocr.accuracy("for", "four") == pytest.approx(0.75)
