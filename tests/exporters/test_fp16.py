"""Mixed precision: what can be in float16 is, and nothing overflows or loses too much."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from advconv_onnx import model as files
from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.exporters.fp16 import Options, _fewest, export
from advconv_onnx.records import Artifact
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session
from tests.parsing import normal, parse

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4, 9, 8] x) => (float[N, 4, 9, 8] z)'
CONVS = "a = Conv <pads = [1, 1, 1, 1]> (x, w) b = Relu (a) z = Conv <pads = [1, 1, 1, 1]> (b, w)"


def write(path: Path, nodes: str, **weights: np.ndarray) -> Path:
    model = parse(f"{HEAD} {{ {nodes} }}", w=normal(4, 4, 3, 3), **weights)
    files.save(model, path)
    return path


def converted(tmp_path: Path, nodes: str, **weights: np.ndarray) -> tuple[Artifact, Path]:
    out = tmp_path / "half.onnx"
    return export(write(tmp_path / "m.onnx", nodes, **weights), out), out


def kept(artifact: Artifact) -> set[str]:
    return {layer.op_type for layer in artifact.layers if layer.kept}


def in_half_arithmetic(original: Path, half: Path) -> float:
    """Error of a converted file where numpy computes in float16, relative to the range."""
    x = normal(2, 4, 9, 8, seed=3)
    [want] = ReferenceEvaluator(onnx.load(original)).run(None, {"x": x})
    [found] = ReferenceEvaluator(onnx.load(half)).run(None, {"x": x})
    return float(np.abs(want - found).max() / np.ptp(want))


def test_a_network_is_converted_and_stays_equal(tmp_path: Path) -> None:
    artifact, half = converted(tmp_path, CONVS)
    assert artifact.validation.passed
    assert not kept(artifact)
    assert all(0 < layer.error < 1e-3 for layer in artifact.layers)
    model = files.load(half)
    assert {v.const_value.dtype for v in model.graph.initializers.values()} == {ir.DataType.FLOAT16}
    assert {v.dtype for v in (*model.graph.inputs, *model.graph.outputs)} == {ir.DataType.FLOAT}
    assert in_half_arithmetic(tmp_path / "m.onnx", half) < Options.max_error
    assert "does not pay" in artifact.notes[0]


def test_inputs_and_outputs_in_float16(tmp_path: Path) -> None:
    out = tmp_path / "half.onnx"
    export(write(tmp_path / "m.onnx", CONVS), out, float16_io=True)
    session = open_session(out)
    assert {value.type for value in (*session.get_inputs(), *session.get_outputs())} == {
        "tensor(float16)"
    }
    x = normal(1, 4, 9, 8)
    want = run_session(open_session(tmp_path / "m.onnx"), {"x": x})["z"]
    found = run_session(session, {"x": x.astype(np.float16)})["z"]
    assert np.abs(found - want).max() < Options.max_error * np.ptp(want)


def test_what_would_overflow_stays_and_is_not_rounded_in_between(tmp_path: Path) -> None:
    nodes = (
        "a = Conv <pads = [1, 1, 1, 1]> (x, w) b = Mul (a, big) c = Sqrt (b) d = Mul (c, small)"
        " z = Conv <pads = [1, 1, 1, 1]> (d, w)"
    ).replace("c = Sqrt (b)", "n = Abs (b) c = Sqrt (n)")
    weights = {"big": np.float32(1e6), "small": np.float32(1e-2)}
    artifact, half = converted(tmp_path, nodes, **weights)
    assert kept(artifact) == {"Mul", "Abs", "Sqrt"}
    reasons = {layer.op_type: layer.kept for layer in artifact.layers if layer.kept}
    assert "range" in reasons["Abs"]
    assert in_half_arithmetic(tmp_path / "m.onnx", half) < Options.max_error


def test_what_loses_too_much_stays(tmp_path: Path) -> None:
    nodes = CONVS.replace("b = Relu (a)", "h = Add (a, far) b = Sub (h, far)")
    artifact, half = converted(tmp_path, nodes, far=np.float32(2000))
    assert "Add" in kept(artifact)
    assert "Conv" not in kept(artifact)
    assert in_half_arithmetic(tmp_path / "m.onnx", half) < Options.max_error
    everything = {layer.op_type: layer.error for layer in artifact.layers}
    assert everything["Add"] > 1e-2 > everything["Conv"]


def test_an_output_that_stays_in_float32_keeps_its_name_and_type(tmp_path: Path) -> None:
    nodes = "a = Conv <pads = [1, 1, 1, 1]> (x, w) z = Mul (a, big)"
    artifact, half = converted(tmp_path, nodes, big=np.float32(1e6))
    assert kept(artifact) == {"Mul"}
    assert in_half_arithmetic(tmp_path / "m.onnx", half) < Options.max_error


def test_bodies_stay_in_float32(tmp_path: Path) -> None:
    branch = "r = {} (a)"
    nodes = (
        "a = Conv <pads = [1, 1, 1, 1]> (x, w) s = ReduceSum <keepdims = 0> (x)"
        " p = Greater (s, zero) b = If (p) <then_branch = t () => (float[N, 4, 9, 8] r) "
        f"{{ {branch.format('Relu')} }}, else_branch = e () => (float[N, 4, 9, 8] r) "
        f"{{ {branch.format('Neg')} }}> z = Conv <pads = [1, 1, 1, 1]> (b, w)"
    )
    artifact, half = converted(tmp_path, nodes, zero=np.float32(0))
    assert artifact.validation.passed
    assert "If" not in {layer.op_type for layer in artifact.layers}
    assert in_half_arithmetic(tmp_path / "m.onnx", half) < Options.max_error


def test_more_than_is_possible(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", CONVS)
    with pytest.raises(CheckError, match="no part of the model"):
        export(path, tmp_path / "half.onnx", max_error=1e-7)
    assert not (tmp_path / "half.onnx").exists()


def test_nothing_in_float32(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (int64[N] x) => (int64[N] z)'
    files.save(parse(f"{text} {{ z = Neg (x) }}"), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="nothing can be converted"):
        export(tmp_path / "m.onnx", tmp_path / "half.onnx")


def test_larger_values_than_were_tried_are_reckoned_with(tmp_path: Path) -> None:
    nodes = "a = Mul (x, big) b = Mul (a, small) z = Conv <pads = [1, 1, 1, 1]> (b, w)"
    weights = {"big": np.float32(6000), "small": np.float32(1e-3)}
    artifact, _ = converted(tmp_path, nodes, **weights)  # up to about 24,000
    assert [layer.op_type for layer in artifact.layers if "range" in layer.kept] == ["Mul"]


def test_nothing_is_cast_between_two_converted_layers(tmp_path: Path) -> None:
    _, half = converted(tmp_path, CONVS)
    operators = [node.op_type for node in files.load(half).graph]
    assert operators == ["Cast", "Conv", "Relu", "Conv", "Cast"]


def test_loops_stay_in_float32(tmp_path: Path) -> None:
    body = (
        "t (int64 i, bool c, float[N, 4, 9, 8] s) => (bool d, float[N, 4, 9, 8] r) "
        "{ d = Identity (c) r = Add (s, s) }"
    )
    nodes = (
        "a = Conv <pads = [1, 1, 1, 1]> (x, w) "
        f"b = Loop (count, go, a) <body = {body}> z = Conv <pads = [1, 1, 1, 1]> (b, w)"
    )
    artifact, half = converted(tmp_path, nodes, count=np.array(2), go=np.array(True))
    assert {layer.op_type for layer in artifact.layers} == {"Conv"}
    assert in_half_arithmetic(tmp_path / "m.onnx", half) < Options.max_error


def test_layers_that_need_not_stay_are_let_go_again() -> None:
    nodes = [ir.node(str(number), []) for number in range(16)]
    needed = {nodes[3], nodes[12]}
    assert set(_fewest(nodes, lambda some: needed <= set(some))) == needed


def test_the_model_is_never_replaced(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", CONVS)
    before = path.read_bytes()
    with pytest.raises(InputError, match="never modified"):
        export(path, path)
    assert path.read_bytes() == before
