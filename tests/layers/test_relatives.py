"""What the relatives of the convolution refuse beyond what it refuses itself."""

from __future__ import annotations

from typing import Any

import pytest

from tests.layers.building import assert_refused


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("depthwise_conv", {"multiplier": 0}, "multiplier=0; give one integer"),
        ("depthwise_conv", {"kernel_shape": 9}, "covers 9 pixels .*; shrink the kernel"),
        ("depthwise_separable_conv", {"channels": 0}, "pointwise.*channels=0; give one integer"),
        ("depthwise_separable_conv", {"channels": 2, "weight": 1}, "no option 'weight'; there are"),
        (
            "depthwise_separable_conv",
            {"channels": 2, "multiplier": 0},
            "multiplier=0; give one integer",
        ),
        ("dilated_conv", {"channels": 2, "rate": 0}, "dilations=0; give one integer from 1 up"),
        ("dilated_conv", {"channels": 2, "rate": 3}, "covers 7 pixels .*; shrink .* or dilation"),
        ("dilated_conv", {"channels": 2, "dilations": 2}, "give the rate only"),
        ("grouped_conv", {"channels": 8, "group": 3}, "does not divide 4 .*; use 1, 2 or 4"),
        ("pointwise_conv", {"channels": 6, "group": 4}, "does not divide 6 .*; use 1 or 2"),
        ("pointwise_conv", {"channels": 6, "pads": -1}, "pads=-1; give integers from 0 up"),
    ],
)
def test_refuses_with_a_remedy(name: str, arguments: dict[str, Any], message: str) -> None:
    assert_refused(name, (1, 4, 6, 6), arguments, message)
