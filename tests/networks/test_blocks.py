"""What networks have in common: rounding of channels, atrous stages, conv_norm."""

from __future__ import annotations

import numpy as np
import pytest

from advconv_onnx.errors import InputError
from advconv_onnx.layers import Builder, activation, add
from advconv_onnx.networks.blocks import atrous, conv_norm, round_channels
from advconv_onnx.runtime.session import open_session


@pytest.mark.parametrize(
    ("width", "channels"),
    # Of the stages of torchvision's mobilenet_v2(width_mult=width): stem, 7 stages.
    [
        (1.0, [32, 16, 24, 32, 64, 96, 160, 320]),
        (0.75, [24, 16, 24, 24, 48, 72, 120, 240]),
        (0.5, [16, 8, 16, 16, 32, 48, 80, 160]),
        (0.35, [16, 8, 8, 16, 24, 32, 56, 112]),
        (1.4, [48, 24, 32, 48, 88, 136, 224, 448]),
    ],
)
def test_channels_are_rounded_as_published(width: float, channels: list[int]) -> None:
    stages = [32, 16, 24, 32, 64, 96, 160, 320]
    assert [round_channels(stage * width) for stage in stages] == channels


def test_channels_never_shrink_by_more_than_a_tenth() -> None:
    for channels in np.arange(1, 300, 0.37):
        rounded = round_channels(channels)
        assert rounded % 8 == 0
        assert 0.9 * channels <= rounded < max(channels + 8, 9)


@pytest.mark.parametrize(
    ("output_stride", "steps"),
    # torchvision's resnet50(replace_stride_with_dilation=...): stride, then dilation of conv2 in
    # the first block and in the others of each stage.
    [
        (32, [(1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1)]),
        (16, [(1, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 2)]),
        (8, [(1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4)]),
    ],
)
def test_strides_become_rates(output_stride: int, steps: list[tuple[int, int, int]]) -> None:
    assert atrous([1, 2, 2, 2], reached=4, output_stride=output_stride) == steps


def test_a_stage_without_stride_keeps_the_rate() -> None:
    steps = atrous([1, 2, 2, 2, 1, 2, 1], reached=2, output_stride=8)
    assert steps[3:] == [(1, 1, 2), (1, 2, 2), (1, 2, 4), (1, 4, 4)]


@pytest.mark.parametrize("output_stride", [0, 4, 12, 64])
def test_refuses_other_output_strides(output_stride: int) -> None:
    with pytest.raises(InputError, match=f"output_stride={output_stride}; use 8, 16 or 32"):
        atrous([2], reached=4, output_stride=output_stride)


@pytest.mark.parametrize("group", [1, 4])
def test_conv_norm_keeps_the_variance_of_its_input(group: int) -> None:
    b = Builder(seed=1)
    x = b.input("x", (1, 8, 64, 64))
    b.output(conv_norm(b, x, 16, 3, group=group, weight="torch"))
    model = b.model()
    noise = np.random.default_rng(0).standard_normal((1, 8, 64, 64), np.float32)
    [y] = open_session(model).run(None, {"x": noise})
    np.testing.assert_allclose(y.var(axis=(0, 2, 3)), 1, atol=0.1)
    assert [node.name for node in model.graph] == ["0", "1"]


def test_values_do_not_fade_through_a_stack_of_activations() -> None:
    b = Builder(seed=1)
    x = b.input("x", (1, 64, 32, 32))
    for block in range(12):
        with b.scope(str(block)):
            x = conv_norm(b, x, 64, 3, pads=1, weight="torch", activation="Relu")
    with b.scope("last"):
        b.output(conv_norm(b, x, 64, 3, weight="torch"))
    noise = np.random.default_rng(0).standard_normal((1, 64, 32, 32), np.float32)
    [y] = open_session(b.model()).run(None, {"x": noise})
    assert 0.1 < np.square(y).mean() < 10  # 1e-4 where half is not expected to be cut off


def test_values_neither_fade_nor_grow_through_residual_blocks() -> None:
    b = Builder(seed=1)
    x = b.input("x", (1, 64, 32, 32))
    for block in range(12):
        with b.scope(str(block)):
            x = add(b, x, conv_norm(b, x, 64, 3, pads=1, weight="torch"))
            x = activation(b, x, "Relu")
    with b.scope("last"):
        b.output(conv_norm(b, x, 64, 3, weight="torch"))
    noise = np.random.default_rng(0).standard_normal((1, 64, 32, 32), np.float32)
    [y] = open_session(b.model()).run(None, {"x": noise})
    assert 0.1 < np.square(y).mean() < 10  # 154 without expecting them to grow


def test_conv_norm_is_a_convolution_a_normalization_and_an_activation() -> None:
    b = Builder()
    x = b.input("x", (1, 4, 8, 8))
    with b.scope("stem"):
        y = conv_norm(b, x, 6, 5, names=("c", "n"), strides=2, epsilon=0.5, activation="SiLU")
    nodes = {node.name: node for node in b.model().graph}
    assert [node.op_type for node in nodes.values()] == [
        "Conv",
        "BatchNormalization",
        "Sigmoid",
        "Mul",
    ]
    assert nodes["stem.n"].attributes["epsilon"].as_float() == 0.5
    assert len(nodes["stem.c"].inputs) == 2
    assert tuple(y.shape) == (1, 6, 2, 2)
