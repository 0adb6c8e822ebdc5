"""Activations, spelled so that ONNX Runtime runs them fast and every supported opset has them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from advconv_onnx.errors import InputError
from advconv_onnx.layers.builder import Builder
from advconv_onnx.layers.initializers import Array

DEFAULT_ALPHA = 0.01


def activation(
    b: Builder,
    x: ir.Value,
    kind: str,
    *,
    alpha: float = DEFAULT_ALPHA,
    name: str | None = None,
) -> ir.Value:
    """Apply Relu, Relu6, LeakyRelu, HardSwish, SiLU, Sigmoid or Tanh to each element.

    Args:
        b: where the layer goes.
        x: of any shape.
        kind: one of ``ACTIVATIONS``.
        alpha: slope of LeakyRelu below zero.
        name: within the scope.

    Raises:
        InputError: an activation that does not exist.
    """
    if kind not in ACTIVATIONS:
        raise InputError(f"activation '{kind}': use one of {', '.join(ACTIVATIONS)}, or None")
    with b.layer(kind.lower(), name):
        assert x.shape is not None
        if kind == "LeakyRelu":
            return b.node("LeakyRelu", [x], x.shape, alpha=alpha)
        if kind == "Relu6":
            limits = [
                b.constant(limit, np.array(value), x.dtype)
                for limit, value in (("min", 0.0), ("max", 6.0))
            ]
            return b.node("Clip", [x, *limits], x.shape)
        if kind == "SiLU":
            gate = b.node("Sigmoid", [x], x.shape, name="sigmoid")
            return b.node("Mul", [x, gate], x.shape)
        if kind == "HardSwish" and b.opset < 14:
            gate = b.node("HardSigmoid", [x], x.shape, name="gate", alpha=1 / 6, beta=0.5)
            return b.node("Mul", [x, gate], x.shape)
        return b.node(kind, [x], x.shape)


def reference(x: Array, kind: str, *, alpha: float = DEFAULT_ALPHA) -> Array:
    """The definition of ``kind``."""
    return x * np.where(x < 0, alpha, 1) if kind == "LeakyRelu" else ACTIVATIONS[kind](x)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "Relu": lambda x: np.maximum(x, 0),
    "Relu6": lambda x: np.clip(x, 0, 6),
    "LeakyRelu": lambda x: x * np.where(x < 0, DEFAULT_ALPHA, 1),
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "SiLU": lambda x: x * _sigmoid(x),
    "Sigmoid": _sigmoid,
    "Tanh": np.tanh,
}
"""The definitions by name."""
