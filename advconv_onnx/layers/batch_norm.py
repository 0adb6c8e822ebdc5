"""BatchNormalization with the statistics of training (Ioffe and Szegedy 2015)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from advconv_onnx.layers.builder import Builder
from advconv_onnx.layers.definition import Parameters, along_channels
from advconv_onnx.layers.initializers import Array, Weight
from advconv_onnx.layers.values import channels_of


def batch_norm(
    b: Builder,
    x: ir.Value,
    *,
    epsilon: float = 1e-5,
    weight: Weight = "ones",
    bias: Weight = "zeros",
    running_mean: Weight = "zeros",
    running_var: Weight = "ones",
    name: str | None = None,
) -> ir.Value:
    """Scale and shift each channel: (x - mean) / sqrt(variance + epsilon) * weight + bias.

    Args:
        b: where the layer goes.
        x: (N, C, *spatial).
        epsilon: added to the variance.
        weight: (C,), like the other parameters, which have torch's names.
        bias: added behind the scaling.
        running_mean: subtracted.
        running_var: the variance.
        name: within the scope.
    """
    with b.layer("batch_norm", name):
        shape = (channels_of(x),)
        parameters = [
            b.parameter(parameter, shape, initial, x.dtype)
            for parameter, initial in (
                ("weight", weight),
                ("bias", bias),
                ("running_mean", running_mean),
                ("running_var", running_var),
            )
        ]
        assert x.shape is not None
        return b.node("BatchNormalization", [x, *parameters], x.shape, epsilon=epsilon)


def reference(x: Array, parameters: Parameters, *, epsilon: float = 1e-5) -> Array:
    """The definition, with parameters weight, bias, running_mean and running_var."""
    weight, bias, mean, variance = (
        along_channels(parameters[key].astype(np.float64), x.ndim - 2)
        for key in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(variance + epsilon) * weight + bias
