"""Stand-ins run as the same graph as the real model, and nothing is computed for them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from advconv_onnx import model as files
from advconv_onnx.optimizer.contest import Contest, site_contests
from advconv_onnx.optimizer.stand_in import write_stand_in
from advconv_onnx.rewriter.forms.winograd_rows import FORMS as ROWS
from advconv_onnx.runtime.session import open_session
from tests.optimizer.test_contest import CONV, choices, network


def contest() -> Contest:
    model = network(f"z = {CONV} (x, w)")
    [found] = site_contests(model, choices(model, ROWS[1]))
    return found


def executed(path: Path) -> Counter[str]:
    """What ONNX Runtime makes of a file, in any order."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".optimized"))
    options.log_severity_level = 3
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(options.optimized_model_filepath).graph.node
    return Counter(f"{node.op_type} {node.attribute}" for node in nodes)


def test_the_same_graph_is_executed(tmp_path: Path) -> None:
    variant = contest().model("winograd_rows_4")
    files.save(variant, tmp_path / "real.onnx")
    stand_in = write_stand_in(variant, tmp_path / "stand_in.onnx")
    assert executed(stand_in) == executed(tmp_path / "real.onnx")


def test_equal_weights_do_not_merge_their_readers(tmp_path: Path) -> None:
    model = network(
        f"k = Concat <axis = 1> (x, q) a = {CONV} (k, v) b = {CONV} (k, u) z = Add (a, b)"
    )
    nodes = executed(write_stand_in(model, tmp_path / "m.onnx"))
    assert sum(number for node, number in nodes.items() if node.startswith("Conv")) == 2


def test_weights_are_neither_computed_nor_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = contest()

    def refuse(*arguments: Any) -> None:
        raise AssertionError("computed")

    monkeypatch.setattr(np, "einsum", refuse)
    variant = found.model("winograd_rows_4")
    path = write_stand_in(variant, tmp_path / "m.onnx")
    assert max(tensor.ByteSize() for tensor in onnx.load(path).graph.initializer) < 1 << 12
    assert "ConstantOfShape" not in {node.op_type for node in variant.graph}


def test_small_and_integer_weights_are_kept_and_external_ones_come_along(tmp_path: Path) -> None:
    names = {"small": np.ones(8, np.float32), "numbers": np.arange(1 << 12)}
    x = ir.Value(name="x", shape=ir.Shape([1 << 12]), type=ir.TensorType(ir.DataType.INT64))
    weights = [ir.Value(name=n, const_value=ir.tensor(a, name=n)) for n, a in names.items()]
    big = ir.Value(name="big", const_value=ir.tensor(np.ones(1 << 12, np.float32), name="big"))
    nodes = [
        ir.node("Add", [x, weights[1]]),
        ir.node("Identity", [weights[0]]),
        ir.node("Identity", [big]),
    ]
    graph = ir.Graph(
        [x],
        [node.outputs[0] for node in nodes],
        nodes=nodes,
        initializers=[*weights, big],
        opset_imports={"": 17},
        name="g",
    )
    ir.save(ir.Model(graph, ir_version=8), tmp_path / "m.onnx", external_data="m.data")
    (tmp_path / "elsewhere").mkdir()
    path = write_stand_in(files.load(tmp_path / "m.onnx"), tmp_path / "elsewhere" / "m.onnx")
    session = open_session(path)
    y, small, large = session.run(None, {"x": np.zeros(1 << 12, np.int64)})
    np.testing.assert_array_equal(y, names["numbers"])
    np.testing.assert_array_equal(small, names["small"])
    assert np.ptp(large) == 0 < large[0] < 1


def test_weights_of_an_old_model_are_written(tmp_path: Path) -> None:
    model = network(f"k = Concat <axis = 1> (x, q) z = {CONV} (k, v)")
    model.opset_imports[""] = 8  # has no ConstantOfShape
    copy = files.load(write_stand_in(model, tmp_path / "m.onnx"))
    written, own = (m.graph.initializers["v"].const_value.numpy() for m in (copy, model))
    np.testing.assert_array_equal(written, own)
