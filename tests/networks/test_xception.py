"""Xception against its torch twin, and its published size."""

from __future__ import annotations

import pytest

from advconv_onnx import catalog
from advconv_onnx.errors import InputError
from tests.networks.equality import (
    assert_export_agrees,
    assert_twin_agrees,
    count_with_statistics,
)
from tests.networks.twins.xception import Xception

# The pools see even and odd heights and widths: 29 and 15, 46 and 23, 30 and 15 ...
SHAPES = [(2, 3, 64, 64), (1, 3, 97, 66)]


def test_has_the_published_size() -> None:
    model = catalog.build("xception")
    # Trainable and total params of keras.applications.Xception().summary()
    assert catalog.count_parameters(model) == 22_855_952
    assert count_with_statistics(model) == 22_910_480
    assert sum(node.op_type == "Relu" for node in model.graph) == 35  # its layers named "..._act"


@pytest.mark.parametrize(("middle_blocks", "classes"), [(8, 1000), (0, 30)])
def test_equals_the_twin(middle_blocks: int, classes: int) -> None:
    twin = Xception(middle_blocks, classes)
    assert_twin_agrees("xception", twin, SHAPES, middle_blocks=middle_blocks, classes=classes)


@pytest.mark.parametrize("middle_blocks", [1, pytest.param(8, marks=pytest.mark.long)])
def test_equals_the_export_of_the_twin(middle_blocks: int) -> None:
    twin = Xception(middle_blocks)
    model = assert_twin_agrees("xception", twin, SHAPES[:1], middle_blocks=middle_blocks)
    assert_export_agrees(model, twin, SHAPES[:1])


def test_runs_from_seven_pixels_up() -> None:
    catalog.build("xception", input_shape=(1, 3, 7, 7), middle_blocks=0)
    with pytest.raises(InputError, match=r"block1\.conv2': the kernel covers 3 pixels"):
        catalog.build("xception", input_shape=(1, 3, 6, 7), middle_blocks=0)


def test_refuses_a_negative_number_of_blocks() -> None:
    with pytest.raises(InputError, match="middle_blocks=-1; give 0 or more"):
        catalog.build("xception", middle_blocks=-1)
