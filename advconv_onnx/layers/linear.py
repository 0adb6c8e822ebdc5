"""A fully connected layer on top of pooled features: y = x weight^T + bias."""

from __future__ import annotations

import math

import onnx_ir as ir

from advconv_onnx.errors import InputError
from advconv_onnx.layers.builder import Builder
from advconv_onnx.layers.initializers import Weight
from advconv_onnx.layers.values import batch_of


def linear(
    b: Builder,
    x: ir.Value,
    features: int,
    *,
    weight: Weight = "torch",
    bias: Weight = "zeros",
    name: str | None = None,
) -> ir.Value:
    """Flatten everything behind the batch and multiply by a matrix.

    Args:
        b: where the layer goes.
        x: (N, ...), all but N known.
        features: how many come out.
        weight: (features, elements of x per batch element).
        bias: (features,).
        name: within the scope.

    Returns:
        (N, features).

    Raises:
        InputError: no features, or a dimension of ``x`` that is not known.
    """
    with b.layer("linear", name):
        rest = () if x.shape is None else x.shape.dims[1:]
        known = [dim for dim in rest if isinstance(dim, int)]
        if features < 1 or not known or len(known) < len(rest):
            raise InputError(
                f"features={features} of '{x.name}' with shape {x.shape}; give at least one "
                "feature and fixed sizes, or pool the image first"
            )
        elements = math.prod(known)
        if len(rest) > 1:
            x = b.node("Flatten", [x], (batch_of(x), elements), name="flatten")
        parameters = [
            b.parameter("weight", (features, elements), weight, x.dtype),
            b.parameter("bias", (features,), bias, x.dtype),
        ]
        return b.node("Gemm", [x, *parameters], (batch_of(x), features), transB=1)
