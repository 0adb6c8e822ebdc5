"""DeepLabV3 (Chen et al. 2017): dilated convolutions at several rates see objects of all sizes.

A classification network keeps its late resolution by dilation instead of strides; on its features,
an atrous spatial pyramid looks with 3x3 taps at several distances, and at the mean of the image;
bilinear upsampling returns to the input's size. Parameters have torchvision's names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import onnx_ir as ir

from advconv_onnx.errors import InputError
from advconv_onnx.layers import Builder, concat, global_average_pool, pointwise_conv, upsample
from advconv_onnx.networks import mobilenet_v2, resnext
from advconv_onnx.networks.blocks import conv_norm

INPUT_SHAPE = ("N", 3, 513, 513)

TRAINING_ONLY = ("aux_classifier.",)

BACKBONES: dict[str, Callable[..., ir.Value]] = {
    "resnet50": functools.partial(resnext.features, groups=1, width_per_group=64),
    "mobilenet_v2": mobilenet_v2.features,
}

RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
"""Of the pyramid, by output stride: they reach equally far in the input."""

_CHANNELS = 256
"""Of each level of the pyramid, and of the head."""

_conv_norm_relu = functools.partial(conv_norm, weight="torch", activation="Relu")


def deeplabv3(
    b: Builder,
    x: ir.Value,
    *,
    classes: int = 21,
    backbone: str = "resnet50",
    output_stride: int = 8,
    rates: Sequence[int] | None = None,
) -> ir.Value:
    """Build a semantic segmentation network; the defaults are torchvision's deeplabv3_resnet50.

    Args:
        b: where the network goes.
        x: (N, C, H, W), any channels and any size.
        classes: how many, the background among them.
        backbone: "resnet50" or "mobilenet_v2".
        output_stride: input pixels per pixel of the features, 8 or 16: the smaller, the finer and
            the slower.
        rates: dilations of the pyramid; by default those of the paper for the output stride.

    Returns:
        Logits (N, classes, H, W).

    Raises:
        InputError: another backbone or output stride, or a number below 1.
    """
    if backbone not in BACKBONES:
        raise InputError(f"backbone '{backbone}'; use one of {', '.join(BACKBONES)}")
    if output_stride not in RATES:
        raise InputError(f"output_stride={output_stride}; use 8 or 16")
    with b.scope("backbone"):
        features = BACKBONES[backbone](b, x, output_stride=output_stride)
    with b.scope("classifier"):
        with b.scope("0"):
            y = _pyramid(b, features, RATES[output_stride] if rates is None else rates)
        y = _conv_norm_relu(b, y, _CHANNELS, pads=1, names=("1", "2"))
        y = pointwise_conv(b, y, classes, weight="torch", name="4")
    return upsample(b, y, like=x, mode="linear")


def _pyramid(b: Builder, x: ir.Value, rates: Sequence[int]) -> ir.Value:
    with b.scope("convs"):
        with b.scope("0"):
            levels = [_conv_norm_relu(b, x, _CHANNELS, 1)]
        for index, rate in enumerate(rates, start=1):
            with b.scope(str(index)):
                levels.append(_conv_norm_relu(b, x, _CHANNELS, pads=rate, dilations=rate))
        with b.scope(str(len(levels))):
            mean = global_average_pool(b, x)
            mean = _conv_norm_relu(b, mean, _CHANNELS, 1, names=("1", "2"))
            levels.append(upsample(b, mean, like=x))
    with b.scope("project"):
        return _conv_norm_relu(b, concat(b, levels), _CHANNELS, 1)
