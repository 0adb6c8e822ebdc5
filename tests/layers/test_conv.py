"""What a convolution refuses, each with its remedy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from advconv_onnx.layers import Builder, conv
from tests.layers.building import assert_refused

IMAGE = (1, 4, 6, 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 6, "group": 4}, "group=4 does not divide 6 output channels; use 1 or 2"),
        ({"channels": 6, "group": 3}, "group=3 does not divide 4 input channels; use 1 or 2"),
        ({"channels": 4, "group": 0}, "group=0; give one integer from 1 up"),
        ({"channels": 0}, "channels=0; give one integer from 1 up"),
        ({"channels": 2, "kernel_shape": 7}, "covers 7 pixels .* has 6 .*; shrink the kernel"),
        ({"channels": 2, "dilations": (1, 3)}, "covers 7 pixels of spatial axis 1.* or pad more"),
        ({"channels": 2, "kernel_shape": 0}, "kernel_shape=0; give one integer from 1 up, or 2"),
        ({"channels": 2, "kernel_shape": (3, 3, 3)}, "kernel_shape=.*, or 2 of them"),
        ({"channels": 2, "strides": 0}, "strides=0; give one integer from 1 up"),
        ({"channels": 2, "dilations": (1, 0)}, r"dilations=\(1, 0\); give one integer from 1 up"),
        ({"channels": 2, "pads": -1}, "pads=-1; .* to cut pixels off use a Slice"),
        ({"channels": 2, "pads": (1, 1, 1)}, r"pads=\(1, 1, 1\); .* 4 \(all begins, then all ends"),
        ({"channels": 2, "auto_pad": "SAME"}, "auto_pad=SAME; use one of NOTSET, SAME_UPPER"),
        ({"channels": 2, "auto_pad": "VALID", "pads": 1}, "leave the pads out"),
        ({"channels": 2, "activation": "Gelu"}, "activation 'Gelu': use one of Relu, .*, or None"),
        ({"channels": 2, "weight": "he"}, "initializer 'he': use one of kaiming_normal"),
        ({"channels": 2, "weight": np.ones((2, 4, 5, 5))}, "weight has shape .*needs 2x4x3x3"),
        ({"channels": 2, "bias": np.ones(3)}, "bias has shape 3, the layer needs 2"),
        ({"channels": 2, "weight": [[1, 2], [3]]}, "weight is list, not made of real numbers"),
        ({"channels": 2, "weight": np.ones((2, 4, 3, 3), complex)}, "weight is complex128, not"),
        ({"channels": 2, "weight": lambda rng, shape: np.ones(3)}, "weight has shape 3, the layer"),
        ({"channels": 2, "stride": 2}, "no option 'stride'; there are strides, pads, dilations"),
        ({"channels": 2, "padding": 1}, "no option 'padding'; there are strides, pads"),
        ({"channels": 2.0}, "channels=2.0; give one integer from 1 up"),
        ({"channels": 2, "kernel_shape": 3.0}, "kernel_shape=3.0; give one integer from 1 up"),
        ({"channels": 2, "kernel_shape": (3,)}, r"kernel_shape=\(3,\); .*, or 2 of them"),
        ({"channels": 2, "strides": None}, "strides=None; give one integer from 1 up"),
        ({"channels": 2, "pads": ((1, 1), (1, 1))}, "pads=.*; give integers from 0 up"),
    ],
)
def test_refuses_with_a_remedy(arguments: dict[str, Any], message: str) -> None:
    assert_refused("conv", IMAGE, arguments, message)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4), "one to three spatial axes"),
        ((1, 4, 6, 6, 6, 6), "one to three spatial axes"),
        ((1, "C", 6, 6), "channels of 'x' .*unknown.*: fix the input's second dimension"),
    ],
)
def test_refuses_inputs_that_are_no_images(shape: tuple[int | str, ...], message: str) -> None:
    assert_refused("conv", shape, {"channels": 2}, message)


def test_same_padding_of_an_unknown_size_needs_more() -> None:
    arguments = {"channels": 2, "auto_pad": "SAME_UPPER", "strides": 2, "dilations": 2}
    assert_refused("conv", (1, 4, "H", "W"), arguments, "depends on the size 'H'; fix it, or give")


def test_takes_numbers_of_numpy_and_lists() -> None:
    b = Builder()
    x = b.input("x", (1, 1, 6, 6))
    one = np.int64(1)
    y = conv(b, x, one, np.array([3, one]), strides=[2, one], pads=one, weight=[[[[1], [2], [3]]]])
    b.output(y, "y")
    onnx.checker.check_model(ir.to_proto(b.model()), full_check=True)
    [weight] = [v for v in b.model().graph.initializers.values() if v.name == "conv.weight"]
    assert weight.const_value.numpy().ravel().tolist() == [1, 2, 3]
