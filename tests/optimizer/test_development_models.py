"""The trained models this project develops with, at two shapes each, and each twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from advconv_onnx import model as files
from advconv_onnx import optimize
from advconv_onnx.errors import AdvconvError
from advconv_onnx.runtime.session import open_session
from samples.fetch_models import MODELS, model_path

pytestmark = pytest.mark.long


@pytest.mark.parametrize("shape", ["declared", "development"])
@pytest.mark.parametrize("name", MODELS)
def test_results_stay_and_a_second_run_changes_nothing(
    name: str, shape: str, tmp_path: Path
) -> None:
    source, once, twice = model_path(name), tmp_path / "once.onnx", tmp_path / "twice.onnx"
    fixed = {key: size for key, size in MODELS[name].shapes.items() if size}
    inputs = fixed if shape == "development" else {}
    if inputs:
        try:
            open_session(files.load_reshaped(source, inputs))
        except AdvconvError as error:
            pytest.skip(f"the original does not load at this shape: {error}")
    report = optimize(source, once, level="fuse", inputs=inputs)
    assert report.validation.passed
    assert report.validation.max_relative < 1e-4
    assert not [record for record in report.rewrites if record.status == "inaccurate"]
    optimize(once, twice, level="fuse")
    assert once.read_bytes() == twice.read_bytes()
