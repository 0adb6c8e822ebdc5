"""MobileNetV1 against its torch twin, and its published sizes."""

from __future__ import annotations

import math

import pytest

from advconv_onnx import catalog
from advconv_onnx.errors import InputError
from tests.networks.equality import (
    assert_export_agrees,
    assert_twin_agrees,
    count_with_statistics,
)
from tests.networks.twins.mobilenet_v1 import MobileNetV1

SHAPES = [(2, 3, 64, 64), (1, 3, 97, 65)]


@pytest.mark.parametrize(
    ("width", "published"),
    # Total params of keras.applications.MobileNet(alpha=width); the paper's table 6 has 0.5, 1.3,
    # 2.6 and 4.2 million.
    [(0.25, 475_544), (0.5, 1_342_536), (0.75, 2_601_976), (1.0, 4_253_864)],
)
def test_has_the_published_size(width: float, published: int) -> None:
    model = catalog.build("mobilenet_v1", width=width)
    assert count_with_statistics(model) == published


@pytest.mark.parametrize(("width", "classes"), [(1.0, 1000), (0.35, 30)])
def test_equals_the_twin(width: float, classes: int) -> None:
    twin = MobileNetV1(classes, width)
    assert_twin_agrees("mobilenet_v1", twin, SHAPES, width=width, classes=classes)


@pytest.mark.parametrize("width", [0.25, pytest.param(1.0, marks=pytest.mark.long)])
def test_equals_the_export_of_the_twin(width: float) -> None:
    twin = MobileNetV1(width=width)
    model = assert_twin_agrees("mobilenet_v1", twin, SHAPES[:1], width=width)
    assert_export_agrees(model, twin, SHAPES[:1])


@pytest.mark.parametrize("width", [0.0, -1.0, 0.03, math.inf, math.nan])
def test_refuses_an_impossible_width(width: float) -> None:
    with pytest.raises(InputError, match=r"width=.*; give a finite multiplier of at least 1/32"):
        catalog.build("mobilenet_v1", width=width)
