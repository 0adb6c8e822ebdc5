"""What a machine does at best: the two lines of a roofline."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session

_SIZE = 1024
"""Of the matrices multiplied, and of the one that is moved, which stays in the caches."""

_RUNS = 5


@dataclasses.dataclass(frozen=True)
class Peak:
    """Best rates that were seen.

    Attributes:
        macs_per_ms: multiply-accumulates of a large matrix product.
        bytes_per_ms: bytes written by a negation.
    """

    macs_per_ms: float
    bytes_per_ms: float


@functools.cache
def peak(provider: str, threads: int | None) -> Peak:
    """Measure the rates of this machine, in a few ten milliseconds, once per process."""
    size = (_SIZE, _SIZE)
    macs = _SIZE**3 / best_ms(_product(), {"x": np.ones(size, np.float32)}, provider, threads)
    moved = 4 * _SIZE**2 / best_ms(_negation(), {"x": np.ones(size, np.float32)}, provider, threads)
    return Peak(macs, moved)


def best_ms(
    model: ir.Model, inputs: Mapping[str, np.ndarray], provider: str, threads: int | None
) -> float:
    """Milliseconds of the fastest of a few inferences, in this process: an estimate to plan with.

    Raises:
        CheckError: the model does not load or run.
    """
    session = open_session(model, provider=provider, threads=threads)
    run_session(session, inputs)
    return min(_ms(session, inputs) for _ in range(_RUNS))


def _ms(session: ort.InferenceSession, inputs: Mapping[str, np.ndarray]) -> float:
    start = time.perf_counter()
    session.run(None, dict(inputs))
    return (time.perf_counter() - start) * 1e3


def _product() -> ir.Model:
    ones = np.ones((_SIZE, _SIZE), np.float32)
    x = ir.Value(name="x", shape=ir.Shape(ones.shape), type=ir.TensorType(ir.DataType.FLOAT))
    weight = ir.Value(name="w", const_value=ir.tensor(ones, name="w"))
    node = ir.node("MatMul", [x, weight])
    return _model(x, node, [weight])


def _negation() -> ir.Model:
    x = ir.Value(name="x", shape=ir.Shape([_SIZE, _SIZE]), type=ir.TensorType(ir.DataType.FLOAT))
    return _model(x, ir.node("Neg", [x]), [])


def _model(x: ir.Value, node: ir.Node, weights: list[ir.Value]) -> ir.Model:
    y = node.outputs[0]
    y.name, y.type, y.shape = "y", x.type, x.shape
    graph = ir.Graph(
        [x], [y], nodes=[node], initializers=weights, opset_imports={"": 13}, name="peak"
    )
    return ir.Model(graph, ir_version=8)
