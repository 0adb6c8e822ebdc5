"""What may follow a convolution's sums: a bias, a BatchNormalization, an activation."""

from __future__ import annotations

from typing import TypedDict, cast

import numpy as np
import onnx_ir as ir

from advconv_onnx.layers.activation import activation
from advconv_onnx.layers.activation import reference as activation_reference
from advconv_onnx.layers.batch_norm import batch_norm
from advconv_onnx.layers.batch_norm import reference as norm_reference
from advconv_onnx.layers.builder import Builder
from advconv_onnx.layers.definition import Parameters, along_channels, within
from advconv_onnx.layers.initializers import Array, Weight


class Finish(TypedDict, total=False):
    """Options for what follows the sums.

    Attributes:
        bias: True for zeros, False for none, or an array, an initializer, the name of one. By
            default there is one, unless a BatchNormalization follows, which has its own.
        batch_norm: whether one follows, called "norm".
        activation: Relu, Relu6, LeakyRelu, HardSwish, SiLU, Sigmoid, Tanh or None.
    """

    bias: bool | Weight
    batch_norm: bool
    activation: str | None


def has_bias(options: Finish) -> bool:
    """Whether the options give the convolution a bias."""
    return options.get("bias", not options.get("batch_norm", False)) is not False


def bias_parameter(
    b: Builder, channels: int, options: Finish, dtype: ir.DataType | None
) -> list[ir.Value]:
    """The bias (C,) as a convolution's last operand, or nothing."""
    if not has_bias(options):
        return []
    bias = options.get("bias", True)
    return [b.parameter("bias", (channels,), "zeros" if isinstance(bias, bool) else bias, dtype)]


def finish(b: Builder, y: ir.Value, options: Finish) -> ir.Value:
    """Add the BatchNormalization and the activation that the options ask for."""
    if options.get("batch_norm", False):
        y = batch_norm(b, y, name="norm")
    kind = options.get("activation")
    return y if kind is None else activation(b, y, kind)


def finish_reference(y: Array, parameters: Parameters, options: Finish) -> Array:
    """The definition of all that follows the sums ``y``."""
    if "bias" in parameters:
        y = y + along_channels(parameters["bias"].astype(np.float64), y.ndim - 2)
    if options.get("batch_norm", False):
        y = norm_reference(y, within("norm", parameters))
    kind = options.get("activation")
    return y if kind is None else activation_reference(y, kind)


def finish_of(options: Finish) -> Finish:
    """What follows the sums, among options that hold more."""
    kept = {key: value for key, value in options.items() if key in Finish.__annotations__}
    return cast(Finish, kept)
