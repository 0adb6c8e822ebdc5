"""Generated models for the time and memory of optimizers: long chains, and much weight."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

CHANNELS = 8
WIDE = 2048
"""Channels of the heavy models: a 1x1 kernel then takes 16 MiB."""

_OPSET = 18


def conv_chain(nodes: int, seed: int = 0) -> ir.Model:
    """Conv, BatchNormalization, Relu, over and over; dynamic batch and size."""
    model = _Chain(seed, ("N", CHANNELS, "H", "W"))
    for _ in range(nodes // 3):
        model.conv(CHANNELS)
        model.batch_norm(CHANNELS)
        model.node("Relu")
    return model.finish()


def shape_chain(nodes: int, seed: int = 0) -> ir.Model:
    """The detours of exporters between convolutions: sizes computed, to flatten and go back."""
    model = _Chain(seed, ("N", CHANNELS, 16, 16))
    first, axes = model.constant(np.array(0)), model.constant(np.array([0]))
    flat = model.constant(np.array([CHANNELS * 256]))
    back = model.constant(np.array([-1, CHANNELS, 16, 16]))
    for _ in range(nodes // 8):
        size = model.op("Shape", model.x)
        batch = model.op("Unsqueeze", model.op("Gather", size, first), axes)
        model.node("Reshape", model.op("Concat", batch, flat, axis=0))
        model.node("Reshape", back)
        model.conv(CHANNELS)
        model.node("Relu")
    return model.finish()


def heavy(layers: int, seed: int = 0) -> ir.Model:
    """Conv, BatchNormalization, Relu with 16 MiB of weights each, drawn when they are written."""
    model = _Chain(seed, (1, WIDE, 7, 7))
    for _ in range(layers):
        model.conv(WIDE)
        model.batch_norm(WIDE)
        model.node("Relu")
    return model.finish()


class _Chain:
    """A graph that grows at its one end, ``x``."""

    def __init__(self, seed: int, shape: Sequence[int | str]) -> None:
        self._rng = np.random.default_rng(seed)
        self._names = 0
        self._input = ir.Input("x", ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT))
        self._nodes: list[ir.Node] = []
        self._constants: list[ir.Value] = []
        self.x = self._input

    def op(self, op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """Add a node beside the chain, or at its end by way of ``node``."""
        node = ir.node(op_type, inputs, attributes, name=self._name(op_type))
        node.outputs[0].name = node.name
        self._nodes.append(node)
        return node.outputs[0]

    def node(self, op_type: str, *more: ir.Value) -> None:
        self.x = self.op(op_type, self.x, *more)

    def conv(self, channels: int) -> None:
        """Near the identity, so that values live through any number of layers."""
        draw = functools.partial(_near_identity, channels, int(self._rng.integers(1 << 32)))
        lazy = ir.LazyTensor(
            draw, ir.DataType.FLOAT, ir.Shape((channels, channels, 1, 1)), name=self._name("w")
        )
        self.node("Conv", self._register(lazy))

    def batch_norm(self, channels: int) -> None:
        scale, variance = self._rng.uniform(0.99, 1.01, (2, channels))
        bias, mean = self._rng.uniform(-0.01, 0.01, (2, channels))
        arrays = (scale, bias, mean, variance)
        self.node("BatchNormalization", *(self.constant(a.astype(np.float32)) for a in arrays))

    def constant(self, array: NDArray[Any]) -> ir.Value:
        return self._register(ir.tensor(array, name=self._name("k")))

    def finish(self) -> ir.Model:
        self.x.type = ir.TensorType(ir.DataType.FLOAT)
        self.x.shape = self._input.shape
        graph = ir.Graph(
            [self._input],
            [self.x],
            nodes=self._nodes,
            initializers=self._constants,
            opset_imports={"": _OPSET},
            name="chain",
        )
        return ir.Model(graph, ir_version=8)

    def _register(self, tensor: ir.TensorProtocol) -> ir.Value:
        value = ir.val(tensor.name, const_value=tensor)
        self._constants.append(value)
        return value

    def _name(self, stem: str) -> str:
        self._names += 1
        return f"{stem}_{self._names}"


def _near_identity(channels: int, seed: int) -> ir.TensorProtocol:
    noise = np.random.default_rng(seed).standard_normal((channels, channels), np.float32)
    noise *= 0.01 / channels**0.5
    noise[np.diag_indices(channels)] += 1
    return ir.tensor(noise[:, :, None, None])
