"""U-Net (Ronneberger et al. 2015): a decoder that returns to the input's size, fed by skips.

The encoder halves the image again and again and doubles its channels; the decoder enlarges it, by
transposed convolution or bilinear upsampling, and sees beside it what the encoder had at that size.
In today's form, padded and with BatchNormalization, and with the names of parameters it has in
https://github.com/milesial/Pytorch-UNet.
"""

from __future__ import annotations

import functools

import onnx_ir as ir

from advconv_onnx.errors import InputError
from advconv_onnx.layers import (
    Builder,
    concat,
    conv_transpose,
    max_pool,
    pad_like,
    pointwise_conv,
    upsample,
)
from advconv_onnx.layers.values import size_of
from advconv_onnx.model import format_shape
from advconv_onnx.networks.blocks import conv_norm

INPUT_SHAPE = ("N", 3, 512, 512)

DECODERS = ("transposed", "upsample")

_WEIGHT = "kaiming_normal"

_conv_norm_relu = functools.partial(conv_norm, pads=1, weight=_WEIGHT, activation="Relu")


def unet(
    b: Builder,
    x: ir.Value,
    *,
    classes: int = 1,
    depth: int = 4,
    base: int = 64,
    decoder: str = "transposed",
) -> ir.Value:
    """Build a network that classifies each pixel.

    Args:
        b: where the network goes.
        x: (N, C, *size), any channels, and at least 2^depth pixels per axis. Where halving rounded
            a size down, the decoder makes up for it with zeros. Multiples of 2^depth need none;
            dynamic sizes are known to be such when their names say so: "16*H" for depth 4.
        classes: how many.
        depth: times the image is halved.
        base: channels at full size; each halving doubles them.
        decoder: "transposed" for convolutions that learn to enlarge, "upsample" for bilinear
            upsampling with aligned corners.

    Returns:
        Logits (N, classes, *size).

    Raises:
        InputError: another decoder, a number below 1, or an image that is too small.
    """
    if decoder not in DECODERS:
        raise InputError(f"decoder '{decoder}'; use one of {', '.join(DECODERS)}")
    _check_depth(x, depth)
    # Upsampling keeps the channels, so whatever is upsampled has half as many.
    divisor = 2 if decoder == "upsample" else 1
    with b.scope("inc"):
        x = _double_conv(b, x, base)
    skips = []
    for level in range(1, depth + 1):
        skips.append(x)
        channels = base << level
        with b.scope(f"down{level}.maxpool_conv"):
            x = max_pool(b, x, 2, strides=2)
            with b.scope("1"):
                x = _double_conv(b, x, channels // divisor if level == depth else channels)
    for level in reversed(range(depth)):
        channels = base << level
        with b.scope(f"up{depth - level}"):
            if decoder == "transposed":
                x = conv_transpose(b, x, channels, 2, strides=2, weight=_WEIGHT, name="up")
            else:
                x = upsample(b, x, scale=2, mode="linear", align_corners=True, name="up")
            x = concat(b, [skips[level], pad_like(b, x, skips[level])])
            with b.scope("conv"):
                x = _double_conv(b, x, channels // divisor if level else channels, between=channels)
    return pointwise_conv(b, x, classes, weight=_WEIGHT, name="outc.conv")


def _check_depth(x: ir.Value, depth: int) -> None:
    size = size_of(x)
    if depth < 1:
        raise InputError(f"depth={depth}; halve the image at least once")
    if any(isinstance(n, int) and n < 1 << depth for n in size):
        raise InputError(
            f"'{x.name}' has size {format_shape(size)}, and depth={depth} halves it as often; "
            f"give at least {1 << depth} pixels per axis, or a smaller depth"
        )


def _double_conv(b: Builder, x: ir.Value, channels: int, *, between: int | None = None) -> ir.Value:
    with b.scope("double_conv"):
        x = _conv_norm_relu(b, x, between or channels)
        return _conv_norm_relu(b, x, channels, names=("3", "4"))
