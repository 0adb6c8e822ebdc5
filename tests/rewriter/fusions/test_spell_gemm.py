"""Mutants of spell_gemm."""

from __future__ import annotations

from typing import Any

import pytest

from advconv_onnx.rewriter.fusions import spell_gemm
from advconv_onnx.rewriter.fusions.spell_gemm import SpellGemm
from tests.rewriter.fusions.disproving import assert_disproved


@pytest.mark.parametrize(
    ("check", "nodes"),
    [
        ("_check_bias", "y = MatMul(a, b) z = Add(y, wide)"),
        ("_check_matrices", "y = Gemm <beta = 0.5> (a, b) z = Add(y, c)"),
        ("_check_matrices", "y = Gemm(a, b, c) z = Add(y, c)"),
        ("_check_matrices", "y = MatMul(d, b) z = Add(y, c)"),
    ],
)
def test_without_a_check_is_disproved(
    monkeypatch: pytest.MonkeyPatch, check: str, nodes: str
) -> None:
    def nothing(*_: Any) -> None:
        return

    monkeypatch.setattr(spell_gemm, check, nothing)
    assert_disproved(
        SpellGemm(),
        f"""<ir_version: 8, opset_import: ["" : 13]>
        g (float[N, 3] a, float[K, N, 3] d) => (float[] z)
        <float[3, 2] b = {{1, -2, 3, 4, 5, -6}}, float[2] c = {{3, -4}},
         float[1, 1, 2] wide = {{3, -4}}> {{ {nodes} }}""",
    )
