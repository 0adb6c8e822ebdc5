"""What a transposed convolution refuses, and that ONNX means the same by ``auto_pad``."""

from __future__ import annotations

import itertools
from typing import Any

import onnx_ir as ir
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from tests.layers.building import assert_equal, assert_refused, build, run
from tests.parsing import normal


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strides": 2, "output_padding": 2}, "not below its stride 2; use at most 1, or lower"),
        ({"dilations": 3, "output_padding": 1}, "axis 0 is not below its stride 1; use at most 0"),
        ({"strides": (3, 2), "output_padding": (2, 2)}, "output_padding=2 of spatial axis 1"),
        ({"output_padding": -1}, "output_padding=-1; give one integer from 0 up"),
        ({"kernel_shape": 1, "pads": 2}, "leave -1 pixels of spatial axis 0; crop less"),
        ({"pads": (0, 4, 0, 1)}, "leave 0 pixels of spatial axis 1; crop less, or use a larger"),
        ({"group": 3}, "group=3 does not divide 4 input channels; use 1 or 2"),
        ({"auto_pad": "SAME"}, "auto_pad=SAME; use one of NOTSET"),
        ({"kernel_shape": 0}, "kernel_shape=0; give one integer from 1 up"),
        ({"strides": 0}, "strides=0; give one integer from 1 up"),
        ({"pads": -1}, "pads=-1; give integers from 0 up"),
    ],
)
def test_refuses_with_a_remedy(arguments: dict[str, Any], message: str) -> None:
    assert_refused("conv_transpose", (1, 4, 3, 3), {"channels": 6, **arguments}, message)


def test_onnxruntime_wants_output_padding_below_the_stride() -> None:
    """Why more is refused, which torch allows below the dilation. If this fails, it can go."""
    model = build("conv_transpose", (1, 2, 3), {"channels": 3, "dilations": 2})
    [node] = model.graph
    node.attributes["output_padding"] = ir.AttrInt64s("output_padding", [1])
    model.graph.outputs[0].shape = ir.Shape([1, 3, 8])
    with pytest.raises(InvalidArgument, match=r"output_padding .* may be too large for stride"):
        run(model, normal(1, 2, 3))


def test_any_kernel_fits() -> None:
    model = build("conv_transpose", (1, 2, 1, 1), {"channels": 3, "kernel_shape": 7})
    assert run(model, normal(1, 2, 1, 1)).shape == (1, 3, 7, 7)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_pads_are_those_of_onnxruntimes_own_auto_pad(auto_pad: str) -> None:
    x = normal(1, 1, 3)
    for kernel, stride, dilation in itertools.product((1, 2, 3, 4), (1, 2, 3), (1, 2)):
        for more in range(stride):
            extent = (kernel - 1) * dilation + 1
            arguments = {
                "kernel_shape": kernel,
                "strides": stride,
                "dilations": dilation,
                "output_padding": more,
                "auto_pad": auto_pad,
            }
            model = build("conv_transpose", x.shape, {"channels": 1, **arguments})
            ours = run(model, x)
            if auto_pad != "VALID":
                assert ours.shape[2] == 3 * stride
                if extent + more < stride:
                    continue  # there ONNX Runtime makes less than its shape inference says
            [node] = model.graph
            del node.attributes["pads"]
            node.attributes["auto_pad"] = ir.AttrString("auto_pad", auto_pad)
            assert_equal(run(model, x), ours, 1e-6)
