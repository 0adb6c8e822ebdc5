"""Mutants of spell_resize: spellings that are nearly equal to the fast one."""

from __future__ import annotations

from typing import Any

import pytest

from advconv_onnx.rewriter.fusions.spell_resize import SpellResize
from advconv_onnx.rewriter.rule import Site
from tests.rewriter.fusions.disproving import assert_disproved, mutate

_FLOOR = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
_HALF = {"coordinate_transformation_mode": "half_pixel"}
_PLACED = "coordinate_transformation_mode"


@pytest.mark.parametrize(
    ("attributes", "scale", "mode", "wanted"),
    [
        (f'{_PLACED} = "asymmetric"', 3, "nearest", _FLOOR),
        (f'{_PLACED} = "asymmetric", nearest_mode = "round_prefer_ceil"', 2, "nearest", _FLOOR),
        (f'{_PLACED} = "asymmetric", nearest_mode = "ceil"', 2, "nearest", _FLOOR),
        ('nearest_mode = "floor"', 2, "nearest", _FLOOR),
        ('nearest_mode = "ceil"', 2, "nearest", _FLOOR),
        (f'{_PLACED} = "align_corners"', 3, "nearest", _FLOOR),
        (f'mode = "linear", {_PLACED} = "align_corners"', 2, "linear", _HALF),
        (f'mode = "linear", {_PLACED} = "asymmetric"', 2, "linear", _HALF),
        ('mode = "linear"', 2, "nearest", _FLOOR),
    ],
)
def test_a_spelling_that_differs_is_disproved(
    attributes: str, scale: int, mode: str, wanted: dict[str, str]
) -> None:
    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        return Site((root,), (root.inputs[0], mode, wanted, [1, 1, scale, scale]))

    assert_disproved(
        mutate(SpellResize, find=find),
        f"""<ir_version: 8, opset_import: ["" : 18]> g (float[N, 2, H, W] x) => (float[] z)
        <float[4] s = {{1, 1, {scale}, {scale}}}> {{ z = Resize <{attributes}> (x, , s) }}""",
    )


def test_scales_that_fit_one_size_only_are_disproved() -> None:
    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        return Site(tuple(root.graph), (root.graph.inputs[0], "nearest", _FLOOR, [1, 1, 2, 2]))

    assert_disproved(
        mutate(SpellResize, find=find),
        """<ir_version: 8, opset_import: ["" : 18]> g (float[N, 2, H, W] x) => (float[] z)
        <int64[2] r = {10, 12}> {
            h = Shape <start = 0, end = 2> (x)
            k = Concat <axis = 0> (h, r)
            z = Resize (x, , , k)
        }""",
    )
