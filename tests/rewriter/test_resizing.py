"""Scales of a Resize that repeats pixels, and the reasons against any other."""

from __future__ import annotations

import pytest

from advconv_onnx.rewriter.resizing import nearest_scales
from advconv_onnx.rewriter.rule import NoSite, Refused
from tests.parsing import parse


def scales_of(
    attributes: str, scales: str = "1, 1, 2, 3", spatial: str = "H, W", opset: int = 18
) -> tuple[int, ...]:
    rank = scales.count(",") + 1
    op, inputs = ("Resize", "x, , s") if opset > 10 else ("Upsample", "x, s")
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : {opset}]>
        g (float[N, 4, {spatial}] x) => (float[] z)
        <float[{rank}] s = {{{scales}}}> {{ z = {op} <{attributes}> ({inputs}) }}"""
    )
    return nearest_scales(model.graph.node(0))


_FLOOR = 'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'


@pytest.mark.parametrize(
    "attributes",
    [
        'mode = "nearest"',
        'nearest_mode = "round_prefer_ceil"',
        'coordinate_transformation_mode = "tf_half_pixel_for_nn", nearest_mode = "floor"',
    ],
)
def test_any_spelling_of_repeated_pixels(attributes: str) -> None:
    assert scales_of(attributes) == (2, 3)


def test_any_number_of_axes_and_old_opsets() -> None:
    assert scales_of(_FLOOR, "1, 1, 4", "L") == (4,)
    assert scales_of(_FLOOR, "1, 1, 2, 1, 5", "D, H, W") == (2, 1, 5)
    assert scales_of(_FLOOR + ", axes = [3, 2]", "3, 2") == (2, 3)
    assert scales_of('mode = "nearest"', opset=9) == (2, 3)


def scales_by_sizes(x: str) -> tuple[int, ...]:
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 18]> g (float{x} x) => (float[] z)
        <int64[4] n = {{1, 4, 10, 9}}> {{ z = Resize <{_FLOOR}> (x, , , n) }}"""
    )
    return nearest_scales(model.graph.node(0))


def test_sizes_tell_the_scales_of_an_input_whose_sizes_are_known() -> None:
    assert scales_by_sizes("[1, 4, 5, 3]") == (2, 3)
    for x in ("[1, 4, 5, W]", "[1, 4, 5, 4]", "[]"):
        with pytest.raises(Refused, match="not all known and integer"):
            scales_by_sizes(x)


@pytest.mark.parametrize(
    ("attributes", "scales", "reason"),
    [
        ('mode = "linear"', "1, 1, 2, 3", "mode"),
        (_FLOOR.replace("floor", "ceil"), "1, 1, 1, 2", "mode"),
        (_FLOOR.replace("asymmetric", "align_corners"), "1, 1, 2, 3", "mode"),
        (_FLOOR.replace("asymmetric", "tf_crop_and_resize"), "1, 1, 2, 3", "reads a region"),
        (_FLOOR, "1, 1, 1.5, 2", "integer"),
        (_FLOOR, "1, 1, 0.5, 2", "integer"),
        (_FLOOR, "1, 2, 2, 2", "channels"),
    ],
)
def test_what_does_something_else_is_refused(attributes: str, scales: str, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        scales_of(attributes, scales)


def test_nothing_is_enlarged() -> None:
    with pytest.raises(NoSite):
        scales_of(_FLOOR, "1, 1, 1, 1")
