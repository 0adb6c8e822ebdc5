"""What an upsampling with a convolution refuses, and its defaults."""

from __future__ import annotations

from typing import Any

import pytest

from advconv_onnx.inspection import inspect
from tests.layers.building import assert_refused, build


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 2, "size": 8}, "scale and size given; give scale, size or like"),
        ({"scale": -1}, "scale=-1; give one factor above 0"),
        ({"mode": "area"}, "mode=area; use one of nearest, linear, cubic"),
        ({"kernel_shape": 9}, "covers 9 pixels of spatial axis 0, the input has 8"),
        ({"group": 3}, "group=3 does not divide 4 input channels"),
        ({"pads": -1}, "pads=-1; give integers from 0 up"),
        ({"activation": "Elu"}, "activation 'Elu': use one of Relu"),
    ],
)
def test_refuses_with_a_remedy(arguments: dict[str, Any], message: str) -> None:
    assert_refused("upsample_conv", (1, 4, 4, 4), {"channels": 6, **arguments}, message)


def test_doubles_by_default_and_has_the_parameters_of_one_convolution() -> None:
    model = build("upsample_conv", ("N", 4, "H", 5), {"channels": 6, "pads": 1})
    assert model.graph.outputs[0].shape[3] == 10
    parameters = {"layer.weight", "layer.bias"}
    assert {*model.graph.initializers} - {"layer.upsample.scales"} == parameters
    [row] = inspect(model).layers
    assert row.kind == "upsample+convolution"
