"""Mutants of drop_zero_state."""

from __future__ import annotations

import pytest

from advconv_onnx.rewriter.fusions import drop_zero_state
from advconv_onnx.rewriter.fusions.drop_zero_state import DropZeroState
from tests.rewriter.fusions.disproving import assert_disproved


@pytest.mark.parametrize("state", ["0.5, 0.5", "0, 1"])
def test_dropping_another_state_is_disproved(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    monkeypatch.setattr(drop_zero_state, "_makers_of_zeros", lambda *_: [])
    ones = ", ".join(["1"] * 12)
    assert_disproved(
        DropZeroState(),
        f"""<ir_version: 8, opset_import: ["" : 14]> g (float[T, 1, 2] x) => (float[] z)
        <float[1, 6, 2] w = {{{ones}}}, float[1, 1, 2] h = {{{state}}}>
        {{ z = GRU <hidden_size = 2> (x, w, w, , , h) }}""",
    )
