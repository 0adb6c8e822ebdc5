from fractions import Fraction

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from advconv_onnx.costs import ReceptiveField, convolution_costs, effective_kernel, element_count
from advconv_onnx.records import Costs

MODULES = {
    "dense": (torch.nn.Conv2d(6, 8, 3, padding=1), (2, 6, 9, 7)),
    "no bias": (torch.nn.Conv2d(6, 8, (3, 5), bias=False), (1, 6, 9, 7)),
    "strided": (torch.nn.Conv2d(6, 8, 3, stride=2, padding=1), (1, 6, 9, 7)),
    "dilated": (torch.nn.Conv2d(6, 8, 3, dilation=2, padding=2), (1, 6, 9, 7)),
    "grouped": (torch.nn.Conv2d(6, 8, 3, groups=2), (1, 6, 9, 7)),
    "depthwise": (torch.nn.Conv2d(6, 6, 3, groups=6), (1, 6, 9, 7)),
    "depth multiplier": (torch.nn.Conv2d(6, 12, 3, groups=6), (1, 6, 9, 7)),
    "pointwise": (torch.nn.Conv2d(6, 8, 1), (3, 6, 9, 7)),
    "1-D": (torch.nn.Conv1d(6, 8, 5, stride=3), (2, 6, 20)),
    "3-D": (torch.nn.Conv3d(4, 2, (1, 3, 2)), (1, 4, 5, 6, 7)),
    "transposed": (torch.nn.ConvTranspose2d(6, 8, 2, stride=2), (2, 6, 5, 4)),
    "transposed grouped": (
        torch.nn.ConvTranspose2d(6, 8, 3, stride=2, output_padding=1, groups=2),
        (1, 6, 5, 4),
    ),
    "transposed 1-D": (torch.nn.ConvTranspose1d(3, 4, 4, stride=2, padding=1), (1, 3, 11)),
}


@pytest.mark.parametrize("name", MODULES)
def test_costs_are_those_torch_counts(name):
    module, shape = MODULES[name]
    x = torch.zeros(shape)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        y = module(x)
    parameters = list(module.parameters())
    result = convolution_costs(
        tuple(x.shape),
        tuple(module.weight.shape),
        tuple(y.shape),
        bias=0 if module.bias is None else module.bias.numel(),
        transposed="Transpose" in type(module).__name__,
    )
    assert result == Costs(
        parameters=sum(p.numel() for p in parameters),
        macs=counter.get_total_flops() // 2,
        bytes=sum(t.numel() * t.element_size() for t in (x, y, *parameters)),
    )


def test_item_sizes_are_those_of_input_weights_and_output():
    half_byte_weights = convolution_costs(
        (1, 2, 4), (3, 2, 1), (1, 3, 4), bias=3, itemsizes=(1, 0.5, 4)
    )
    assert half_byte_weights.bytes == 8 * 1 + 5 + 12 * 4  # 4.5 bytes of weights, rounded up


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ((("N", 3, 8), (4, 3, 1), ("N", 4, 8)), Costs(12, None, None)),
        ((None, (4, 3, 1), (1, 4, 8)), Costs(12, 96, None)),
        (((1, 3, 8), None, (1, 4, 8)), Costs(None, None, None)),
        (((1, 3, 8), (4, 3, None), (1, 4, 8)), Costs(None, None, None)),
        (((1, None, 8), (4, 3, 1), (1, None, 8)), Costs(12, 96, None)),
    ],
)
def test_what_needs_an_unknown_dimension_is_unknown(shapes, expected):
    assert convolution_costs(*shapes) == expected


def test_element_count():
    assert element_count((2, 3, 4)) == 24
    assert element_count(()) == 1
    assert element_count((2, "N")) is None
    assert element_count(None) is None


def test_effective_kernel_is_the_extent_of_the_dilated_taps():
    kernel, dilation = (3, 5, 1), (2, 3, 7)
    impulse = torch.zeros(1, 1, 41, 41, 41)
    impulse[..., 20, 20, 20] = 1
    response = torch.nn.functional.conv3d(impulse, torch.ones(1, 1, *kernel), dilation=dilation)
    touched = response[0, 0].nonzero()
    extents = (touched.max(0).values - touched.min(0).values + 1).tolist()
    assert list(effective_kernel(kernel, dilation)) == extents == [5, 13, 1]


@pytest.mark.parametrize(
    ("layers", "size"),
    [
        ([], 1),
        ([{"kernel": 3}] * 4, 9),
        # VGG-16 up to its last pooling, and AlexNet's: as published (Araujo et al., Distill 2019).
        ([*([{"kernel": 3}] * 2), {"kernel": 2, "stride": 2}] * 2
         + [*([{"kernel": 3}] * 3), {"kernel": 2, "stride": 2}] * 3, 212),
        ([{"kernel": 11, "stride": 4}, {"kernel": 3, "stride": 2}, {"kernel": 5},
          {"kernel": 3, "stride": 2}, *([{"kernel": 3}] * 3), {"kernel": 3, "stride": 2}], 195),
        # Repeating each pixel twice, then 3 taps: two distinct pixels, at either phase.
        ([{"kernel": 2, "upscale": 2}, {"kernel": 3}], 2),
        ([{"kernel": 2, "upscale": 2}, {"kernel": 5}], 3),
        # Down and up again: the reach grows in steps of two pixels behind the upsampling.
        ([{"kernel": 3, "stride": 2}, {"kernel": 2, "upscale": 2}, {"kernel": 2}], 5),
    ],
)  # fmt: skip
def test_receptive_field_of_a_chain(layers, size):
    field = ReceptiveField()
    for layer in layers:
        field = field.through(
            layer.get("kernel", 1), **{k: layer[k] for k in layer if k != "kernel"}
        )
    assert field.size == size


def test_down_and_up_returns_to_the_input_grid():
    field = ReceptiveField().through(2, stride=4).through(4, upscale=4)
    assert field.jump * field.grid == 1
    assert ReceptiveField().through(stride=3).grid == 3
    assert ReceptiveField().through(upscale=3).jump == Fraction(1, 3)
