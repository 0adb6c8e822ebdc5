"""MobileNetV2 against its torch twin, its published sizes, and torchvision's names."""

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
from tests.networks.twins.mobilenet_v2 import MobileNetV2

SHAPES = [(2, 3, 64, 64), (1, 3, 97, 65)]


def test_has_the_published_size() -> None:
    # 3,504,872: num_params of torchvision's MobileNet_V2_Weights; 3,538,984: Total params of
    # keras.applications.MobileNetV2.
    model = catalog.build("mobilenet_v2")
    assert catalog.count_parameters(model) == 3_504_872
    assert count_with_statistics(model) == 3_538_984


@pytest.mark.parametrize(
    ("width", "millions"),
    # "Size" of MobileNetV2(alpha=width) in the table of keras-applications.
    [(0.35, 1.7), (0.5, 2.0), (0.75, 2.7), (1.3, 5.4), (1.4, 6.2)],
)
def test_has_about_the_published_size_at_other_widths(width: float, millions: float) -> None:
    model = catalog.build("mobilenet_v2", width=width)
    assert round(count_with_statistics(model) / 1e6, 1) == millions


@pytest.mark.parametrize(("width", "classes"), [(1.0, 1000), (0.35, 30), (1.4, 30)])
def test_equals_the_twin(width: float, classes: int) -> None:
    twin = MobileNetV2(classes, width)
    assert_twin_agrees("mobilenet_v2", twin, SHAPES, width=width, classes=classes)


@pytest.mark.parametrize("width", [0.35, pytest.param(1.0, marks=pytest.mark.long)])
def test_equals_the_export_of_the_twin(width: float) -> None:
    twin = MobileNetV2(width=width)
    model = assert_twin_agrees("mobilenet_v2", twin, SHAPES[:1], width=width)
    assert_export_agrees(model, twin, SHAPES[:1])


@pytest.mark.parametrize("width", [0.0, -1.0, math.inf, math.nan])
def test_refuses_an_impossible_width(width: float) -> None:
    with pytest.raises(InputError, match=r"width=.*; give a finite multiplier above 0"):
        catalog.build("mobilenet_v2", width=width)
