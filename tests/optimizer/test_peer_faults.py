"""Models that other optimizers get wrong: ours computes the same, and its rules see why.

Versions the faults were seen in: onnxsim 0.8.1, OnnxSlim 0.1.98, onnxscript 0.7.2 and onnxoptimizer
0.4.2; ``benchmarks/patterns.py`` and ``benchmarks/fuse.py`` show them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

import advconv_onnx
from advconv_onnx import model as files
from advconv_onnx.records import Report
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session
from tests.parsing import normal, parse

Arrays = Mapping[str, np.ndarray]

ERROR = 1e-5
"""Of the largest value: float32 rounding stays below it, the faults are 1e-2 and more."""

SIZES = ({"N": 1, "H": 8, "W": 8}, {"N": 3, "H": 9, "W": 5})


@dataclasses.dataclass(frozen=True)
class Fault:
    """A model, and what another tool made of it.

    Attributes:
        tool: which, and what it did.
        graph: inputs, outputs and nodes.
        data: inputs that the model does not run without.
    """

    tool: str
    graph: str
    weights: Arrays = dataclasses.field(default_factory=dict)
    opset: int = 18
    data: Arrays = dataclasses.field(default_factory=dict)

    @property
    def text(self) -> str:
        return f'<ir_version: 8, opset_import: ["" : {self.opset}]> g {self.graph}'


W = normal(8, 8, 3, 3, seed=1) / 8
ONE_PER_CHANNEL = normal(8, seed=2)
STATISTICS = {
    "s": normal(8, seed=3),
    "b": normal(8, seed=4),
    "m": normal(8, seed=5),
    "v": np.linspace(0.5, 2, 8, dtype=np.float32),
}
PADS = np.array([0, 0, 1, 1, 0, 0, 1, 1])

FAULTS = {
    "constant of shape W where W is C": Fault(
        "OnnxSlim folds it as one value per channel",
        """(float[N,8,8,8] x) => (float[N,8,8,8] y)
        { c = Conv <pads = [1, 1, 1, 1]> (x, w) y = Mul (c, k) }""",
        {"w": W, "k": ONE_PER_CHANNEL},
    ),
    "constant of shape W after ConvTranspose": Fault(
        "OnnxSlim folds it as one value per channel",
        """(float[N,8,8,8] x) => (float[N,8,8,8] y)
        { c = ConvTranspose <pads = [1, 1, 1, 1]> (x, w) y = Mul (c, k) }""",
        {"w": W, "k": ONE_PER_CHANNEL},
    ),
    "Mul before Conv that makes 8 channels of 1": Fault(
        "onnxsim folds it, and reports the invalid model as fine",
        "(float[N,1,H,W] x) => (float[N,8,P,Q] y) { c = Mul (x, k) y = Conv (c, w) }",
        {"w": W, "k": ONE_PER_CHANNEL.reshape(8, 1, 1)},
    ),
    "constant with more dimensions than the Conv": Fault(
        "onnxsim gives the weights a dimension too many",
        "(float[N,8,H,W] x) => (float[A,N,8,P,Q] y) { c = Conv (x, w) y = Mul (c, k) }",
        {"w": W, "k": np.full((1, 1, 1, 1, 1), 3, np.float32)},
    ),
    "BatchNormalization that trains": Fault(
        "onnxscript folds it with the statistics it was given",
        """(float[N,8,H,W] x) => (float[N,8,P,Q] y) { c = Conv (x, w)
        y, mean, variance = BatchNormalization <training_mode = 1> (c, s, b, m, v) }""",
        {"w": W, **STATISTICS},
    ),
    "Reshape whose result is known, before opset 14": Fault(
        "onnxscript writes the attribute allowzero, which opset 12 does not have; OnnxSlim drops s",
        "(float[N,8,8,8] x, int64[2] s) => (float[N,512] y) { r = Relu (x) y = Reshape (r, s) }",
        opset=12,
        data={"s": np.array([-1, 512])},
    ),
    "Constants written as nodes, one of them as one float": Fault(
        "OnnxSlim makes a double of it, and the model does not load",
        """(float[N,8,H,W] x) => (float[N,1,H,W] y)
        { w = Constant <value = float[1, 8, 1, 1] {1, -2, 3, 4, -5, 6, 7, 8}> ()
          k = Constant <value_float = 0.5> () c = Conv (x, w) y = Mul (c, k) }""",
    ),
    "Pad before an AveragePool that leaves padding out": Fault(
        "onnxoptimizer merges them",
        """(float[N,8,H,W] x) => (float[N,8,P,Q] y) { c = Pad (x, p)
        y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (c) }""",
        {"p": PADS},
    ),
    "Pad with 0 before MaxPool": Fault(
        "onnxoptimizer merges them, as if padded with the lowest number",
        """(float[N,8,H,W] x) => (float[N,8,P,Q] y)
        { c = Pad (x, p) y = MaxPool <kernel_shape = [3, 3]> (c) }""",
        {"p": PADS},
    ),
    "an If in an If that reads from between": Fault(
        "onnxsim fails on two trained models: the node that is read comes behind its reader",
        """(bool flag, bool other, float[N,8,H,W] x) => (float[N,8,P,Q] y)
        { y = If (flag) <
            then_branch = outer_then () => (float[N,8,P,Q] t) {
                d = Squeeze (zero) e = Conv (x, w) f = Mul (e, d)
                t = If (other) <
                    then_branch = inner_then () => (float[N,8,P,Q] u) {
                        size = Shape (f) u = Reshape (f, size) },
                    else_branch = inner_else () => (float[N,8,P,Q] v) { v = Relu (f) }> },
            else_branch = outer_else () => (float[N,8,P,Q] z) { z = Conv (x, w) }> }""",
        {"w": W, "zero": np.array([2], np.float32)},
    ),
    "outputs said to be empty": Fault(
        "a trained model came out with other shapes, and an output off by 1e-2",
        """(float[N,8,H,W] x) => (float[0,8] y, float[0,0,0,0] c)
        { c = Conv (x, w) d = BatchNormalization (c, s, b, m, v) e = GlobalAveragePool (d)
          y = Flatten (e) }""",
        {"w": W, **STATISTICS},
    ),
    "statistics that almost cancel": Fault(
        "a trained model came out with other shapes, and an output off by 1e-2",
        """(float[N,8,H,W] x) => (float[N,8,P,Q] y)
        { c = Conv (x, w, big) y = BatchNormalization (c, s, b, m, tiny) }""",
        {
            "w": W,
            **STATISTICS,
            "big": np.full(8, 10, np.float32),
            "m": np.full(8, 10, np.float32),
            "tiny": np.full(8, 1e-12, np.float32),
        },
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_model_that_a_peer_breaks_computes_the_same(name: str, tmp_path: Path) -> None:
    fault = FAULTS[name]
    source, target = tmp_path / "source.onnx", tmp_path / "target.onnx"
    write(fault.text, fault.weights, source)
    report = optimize(source, target, fault.data)
    onnx.checker.check_model(target)
    for sizes in SIZES:
        assert_equal(source, target, {**draw(source, sizes), **fault.data})
    assert refuted(report) == [], "a rule made the mistake, and only a check caught it"


def test_channels_that_only_the_data_tells(tmp_path: Path) -> None:
    """OnnxSlim takes the Conv's 8 for the input's channels, and a model of one channel breaks."""
    source, target = tmp_path / "source.onnx", tmp_path / "target.onnx"
    fault = FAULTS["Mul before Conv that makes 8 channels of 1"]
    text = fault.text.replace("float[N,1,H,W] x", "float[N,C,H,W] x")
    write(text, fault.weights, source)
    feed = draw(source, {**SIZES[1], "C": 1})
    report = optimize(source, target, feed)
    assert_equal(source, target, feed)
    assert onnx.load(target).graph.input[0].type.tensor_type.shape.dim[1].dim_param == "C"
    assert refuted(report) == []


def write(text: str, weights: Arrays, path: Path) -> None:
    proto = ir.to_proto(parse(text, **weights))
    del proto.graph.value_info[:]  # a tool has to infer the shapes itself
    onnx.save(proto, path)


def optimize(source: Path, target: Path, data: Arrays) -> Report:
    return advconv_onnx.optimize(source, target, level="fuse", data=data)


def refuted(report: Report) -> list[str]:
    return [rewrite.rule for rewrite in report.rewrites if rewrite.status == "inaccurate"]


def draw(source: Path, sizes: Mapping[str, int]) -> Arrays:
    """Inputs of both signs, and conditions that hold."""
    feed: dict[str, np.ndarray] = {}
    for value in onnx.load(source).graph.input:
        tensor = value.type.tensor_type
        shape = [dim.dim_value or sizes[dim.dim_param] for dim in tensor.shape.dim]
        if tensor.elem_type == onnx.TensorProto.BOOL:
            feed[value.name] = np.array(True)
        else:
            feed[value.name] = normal(*shape, seed=sum(shape))
    return feed


def assert_equal(source: Path, target: Path, feed: Arrays) -> None:
    model = onnx.load(source)
    names = [value.name for value in model.graph.output]
    expected = dict(zip(names, ReferenceEvaluator(model).run(None, dict(feed)), strict=True))
    actual = run_session(open_session(files.load(target)), feed)
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        assert actual[name].shape == values.shape
        largest = np.abs(values).max()
        assert largest > 0
        assert np.abs(actual[name] - values).max() <= ERROR * largest
