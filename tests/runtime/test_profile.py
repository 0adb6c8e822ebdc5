import tempfile

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.errors import CheckError
from advconv_onnx.runtime.profile import operator_times, profile

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[2] x, bool c) => (float[2] y) {
  a = Sin(x)
  b = Sin(a)
  y = If(c) <
    then_branch = t () => (float[2] p) { p = Cos(b) },
    else_branch = e () => (float[2] q) { q = Neg(b) }
  >
}
"""
INPUTS = {"x": np.ones(2, np.float32), "c": np.array(True)}


def node(op_type, ts, dur):
    return {"name": f"n_{ts}_kernel_time", "ts": ts, "dur": dur, "args": {"op_name": op_type}}


def run(ts, dur):
    return {"name": "model_run", "ts": ts, "dur": dur, "args": {}}


def test_sums_by_operator_without_the_first_inference_and_without_control_flow():
    events = [
        {"name": "session_initialization", "ts": 0, "dur": 50, "args": {}},
        node("Conv", 100, 9000),  # the first inference: caches are cold
        run(100, 9500),
        node("Relu", 10_000, 100),
        node("Conv", 10_100, 300),
        run(10_000, 500),
        node("Conv", 20_000, 200),
        node("Conv", 20_200, 100),
        node("If", 20_200, 100),
        node("Relu", 20_300, 100),
        run(20_000, 500),
    ]
    conv, relu = operator_times(events)
    assert (conv.op_type, conv.count, conv.ms, conv.share) == ("Conv", 2, 0.3, 0.75)
    assert (relu.op_type, relu.count, relu.ms, relu.share) == ("Relu", 1, 0.1, 0.25)


def test_real_profile_counts_the_branch_taken_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    table = profile(ir.from_onnx_text(TEXT), INPUTS, runs=3)
    assert {row.op_type: row.count for row in table} == {"Sin": 2, "Cos": 1}
    assert sum(row.share for row in table) == pytest.approx(1)
    assert [row.ms for row in table] == sorted((row.ms for row in table), reverse=True)
    assert not list(tmp_path.iterdir())


def test_failing_inference_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckError):
        profile(ir.from_onnx_text(TEXT), {"x": INPUTS["x"]})
    assert not list(tmp_path.iterdir())
