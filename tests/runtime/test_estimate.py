"""An estimate is the fastest of a few turns of one process, which is given back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from advconv_onnx.errors import CheckError
from advconv_onnx.runtime.estimate import estimate_ms
from advconv_onnx.runtime.pool import Pool
from tests.runtime.test_timing import INPUTS


def test_the_fastest_turn_counts(fake: Any) -> None:
    times = iter((5_000_000, 3_000_000, 4_000_000))
    fake.latency = lambda model: next(times)
    with Pool() as pool:
        assert estimate_ms(Path("a"), INPUTS, pool=pool, threads=1) == 3.0


def test_a_model_that_does_not_load_is_an_error_here_and_its_process_is_gone(
    tmp_path: Path,
) -> None:
    (tmp_path / "m.onnx").write_bytes(b"nothing")
    with Pool() as pool, pytest.raises(CheckError, match=r"m\.onnx"):
        estimate_ms(
            tmp_path / "m.onnx", INPUTS, pool=pool, threads=1, provider="cpu", memory_limit=None
        )
