"""What several networks have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np
import onnx_ir as ir

from advconv_onnx.errors import InputError
from advconv_onnx.layers import Builder, activation, batch_norm, conv
from advconv_onnx.layers.conv import ConvOptions
from advconv_onnx.layers.initializers import Array


def conv_norm(
    b: Builder,
    x: ir.Value,
    channels: int,
    kernel_shape: int | Sequence[int] = 3,
    *,
    names: tuple[str, str] = ("0", "1"),
    group: int = 1,
    epsilon: float = 1e-5,
    **options: Unpack[ConvOptions],
) -> ir.Value:
    """Convolution without bias, BatchNormalization, activation: the triple of most networks.

    Args:
        b: where it goes.
        x: (N, C_in, *size).
        channels: C_out.
        kernel_shape: taps per axis.
        names: of the convolution and of the BatchNormalization, under which torch has them.
        group: parts that the channels are split into.
        epsilon: of the BatchNormalization.
        **options: ``ConvOptions``.
    """
    kind = options.get("activation")
    plain: ConvOptions = {**options, "bias": False, "activation": None, "name": names[0]}
    x = conv(b, x, channels, kernel_shape, group=group, **plain)
    x = batch_norm(b, x, epsilon=epsilon, running_var=_variance_behind(x), name=names[1])
    return x if kind is None else activation(b, x, kind)


def _variance_behind(x: ir.Value) -> Array:
    """Variance of each channel of a convolution's result, as training would have measured it.

    With the customary 1 for running_var an untrained network fades out: behind the 52 convolutions
    of MobileNetV2 values are around 1e-9.
    """
    convolution = x.producer()
    assert convolution is not None
    read, weight = convolution.inputs[:2]
    assert weight is not None
    assert weight.const_value is not None
    kernels: Array = weight.const_value.numpy().astype(np.float32, copy=False)
    energy: Array = np.square(kernels).sum(axis=tuple(range(1, kernels.ndim)))
    return energy * sum(_mean_squares(read))


def _mean_squares(x: ir.Value | None) -> tuple[float, float]:
    """Roughly, of what is symmetric around zero in a value, and of what is never negative.

    Inputs and normalized values are symmetric, with a mean square of 1. A Relu cuts that in half.
    """
    node = x.producer() if x is not None else None
    if node is None or node.op_type not in ("Relu", "Clip", "Add", "MaxPool"):
        return 1, 0
    parts = [_mean_squares(value) for value in node.inputs[: 2 if node.op_type == "Add" else 1]]
    symmetric, positive = (sum(part) for part in zip(*parts, strict=True))
    if node.op_type in ("Relu", "Clip"):
        return 0, positive + symmetric / 2
    return symmetric, positive


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of ``divisor``, but no less than 90 % of ``channels``.

    The rule of the MobileNets for width multipliers.

    >>> round_channels(32 * 0.35), round_channels(24 * 0.75)
    (16, 24)
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def atrous(
    strides: Sequence[int], *, reached: int, output_stride: int
) -> list[tuple[int, int, int]]:
    """Trade the late strides of a network's stages for dilation (Chen et al. 2017).

    A stage whose stride would go beyond ``output_stride`` keeps the resolution; its first block
    still has the rate of the stage before, the others the rate that makes up for the stride.

    Args:
        strides: of the stages, each 1 or 2.
        reached: input pixels per pixel before the first stage.
        output_stride: input pixels per output pixel, 8, 16 or 32.

    Returns:
        Stride, rate of the first block and rate of the other blocks, stage by stage.

    Raises:
        InputError: another output stride.

    >>> atrous([1, 2, 2, 2], reached=4, output_stride=8)
    [(1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4)]
    """
    if output_stride not in (8, 16, 32):
        raise InputError(f"output_stride={output_stride}; use 8, 16 or 32")
    steps, rate = [], 1
    for stride in strides:
        before = rate
        if reached * stride > output_stride:
            rate *= stride
            stride = 1
        reached *= stride
        steps.append((stride, before, rate))
    return steps
