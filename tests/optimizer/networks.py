"""Small networks that the optimizer's tests rewrite, as ONNX text and as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

STATISTICS = ("scale", "beta", "mean", "variance")


def paddle_block(path: Path, *, opset: int = 12, seed: int = 0, listed: bool = False) -> Path:
    """Write Conv-BatchNormalization-hardswish-Conv-Mul-Add as PaddlePaddle exports it.

    Args:
        path: where the file goes.
        opset: below 14, so that HardSwish needs a newer one.
        seed: of the weights.
        listed: initializers are also graph inputs, as in old files.
    """
    rng = np.random.default_rng(seed)
    arrays = {
        "w1": rng.normal(size=(8, 3, 3, 3)) / 5,
        "scale": rng.normal(size=8) + 1,
        "beta": rng.normal(size=8),
        "mean": rng.normal(size=8),
        "variance": rng.uniform(0.5, 2, 8),
        "three": np.array(3.0),
        "zero": np.array(0.0),
        "six": np.array(6.0),
        "w2": rng.normal(size=(4, 8, 1, 1)),
        "factor": np.array([1.5]),
        "shift": rng.normal(size=(4, 1, 1)),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1"], ["a"], "conv_1", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["a", *STATISTICS], ["b"], "norm"),
        node("Add", ["b", "three"], ["c"], "add_three"),
        node("Clip", ["c", "zero", "six"], ["d"], "clip"),
        node("Mul", ["b", "d"], ["e"], "times"),
        node("Div", ["e", "six"], ["f"], "by_six"),
        node("Conv", ["f", "w2"], ["g"], "conv_2"),
        node("Mul", ["g", "factor"], ["h"], "scale_it"),
        node("Add", ["h", "shift"], ["y"], "shift_it"),
    ]
    value = helper.make_tensor_value_info
    inputs = [value("x", TensorProto.FLOAT, ["N", 3, "H", "W"])]
    if listed:
        inputs += [value(k, TensorProto.FLOAT, a.shape) for k, a in arrays.items()]
    graph = helper.make_graph(
        nodes,
        "block",
        inputs,
        [value("y", TensorProto.FLOAT, ["N", 4, "P", "Q"])],
        [numpy_helper.from_array(a.astype(np.float32), k) for k, a in arrays.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=7), path)
    return path


def operators(model: ir.Model) -> list[str]:
    """Operator types of the main graph, in order."""
    return [node.op_type for node in model.graph]
