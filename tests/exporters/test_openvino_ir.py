"""OpenVINO's format: reads back, computes the same, and nobody is told about it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from advconv_onnx import catalog
from advconv_onnx import model as files
from advconv_onnx.errors import CheckError, InputError, MissingDependencyError
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session
from samples.fetch_models import Unavailable, model_path
from tests.parsing import normal, parse

openvino_ir = pytest.importorskip("advconv_onnx.exporters.openvino_ir")

CONVS = "a = Conv <pads = [1, 1, 1, 1]> (x, w) b = Relu (a) z = Conv (b, w)"
HEAD = "(float[N, 16, H, W] x) => (float[N, 16, P, Q] z)"


def write(path: Path, nodes: str = CONVS, head: str = HEAD) -> Path:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g {head} {{ {nodes} }}'
    files.save(parse(text, w=normal(16, 16, 3, 3)), path)
    return path


def compiled(path: Path) -> Any:
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino_ir.openvino.Core().compile_model(path, "CPU", settings)


def test_what_is_written_computes_the_same(tmp_path: Path) -> None:
    source, out = write(tmp_path / "m.onnx"), tmp_path / "m.xml"
    artifact = openvino_ir.export(source, out)
    assert artifact.files == (str(out), str(tmp_path / "m.bin"))
    assert 0 < artifact.validation.max_relative < 1e-5
    model = compiled(out)
    assert str(model.input("x").partial_shape) == "[?,16,?,?]"
    for size in ((2, 16, 9, 8), (1, 16, 5, 30)):
        x = normal(*size)
        found, want = model({"x": x})["z"], run_session(open_session(source), {"x": x})["z"]
        assert np.abs(found - want).max() < 1e-5 * np.ptp(want)


def test_several_outputs_of_all_kinds(tmp_path: Path) -> None:
    head = "(float[N, 16, H, W] x, int64[M] q) => (int64[] i, bool[] t, int64[] s)"
    nodes = "i = ArgMax <axis = 1> (x) m = ReduceMean (x) t = Less (x, m) s = Add (q, q)"
    source, out = write(tmp_path / "m.onnx", nodes, head), tmp_path / "m.xml"
    assert openvino_ir.export(source, out).validation.passed
    x, q = normal(2, 16, 5, 4), np.array([3, -4])
    found, want = (
        compiled(out)({"x": x, "q": q}),
        run_session(open_session(source), {"x": x, "q": q}),
    )
    for name in ("i", "t", "s"):
        np.testing.assert_array_equal(found[name], want[name])


def test_weights_in_float16(tmp_path: Path) -> None:
    source = write(tmp_path / "m.onnx")
    whole = openvino_ir.export(source, tmp_path / "whole.xml")
    half = openvino_ir.export(source, tmp_path / "half.xml", float16_weights=True)
    sizes = [Path(artifact.files[1]).stat().st_size for artifact in (whole, half)]
    assert sizes[1] < 0.6 * sizes[0]
    assert 1e-5 < half.validation.max_relative < 5e-3
    with pytest.raises(CheckError, match="differs by"):
        openvino_ir.export(source, tmp_path / "no.xml", float16_weights=True, max_error=1e-5)


def test_another_result_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = openvino_ir._runner

    def off(*arguments: Any) -> Any:
        run = runner(*arguments)

        def shifted(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: y + 1 for name, y in run(inputs).items()}

        return shifted

    monkeypatch.setattr(openvino_ir, "_runner", off)
    with pytest.raises(CheckError, match="differs by"):
        openvino_ir.export(write(tmp_path / "m.onnx"), tmp_path / "m.xml")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_a_layer_that_openvino_does_not_have(tmp_path: Path) -> None:
    source = write(tmp_path / "m.onnx", "z = Det (x)", "(float[N, 3, 3] x) => (float[N] z)")
    with pytest.raises(CheckError, match=r"No conversion rule .*: Det-17$") as caught:
        openvino_ir.export(source, tmp_path / "m.xml")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_another_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"end it in \.xml"):
        openvino_ir.export(write(tmp_path / "m.onnx"), tmp_path / "m.ir")


def test_weights_of_the_input_are_not_replaced(tmp_path: Path) -> None:
    proto = onnx.load(write(tmp_path / "m.onnx"))
    onnx.save_model(
        proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0
    )
    before = (tmp_path / "m.bin").read_bytes()
    with pytest.raises(InputError, match="never modified"):
        openvino_ir.export(tmp_path / "m.onnx", tmp_path / "m.xml")
    assert (tmp_path / "m.bin").read_bytes() == before


OFFLINE = """
import os, sys
def refuse(event, arguments):
    if event.startswith(("socket.connect", "socket.getaddrinfo", "subprocess.Popen")):
        os.write(2, f"{event} {arguments}".encode())
        os._exit(3)
sys.addaudithook(refuse)
from advconv_onnx.exporters.openvino_ir import export
export(*sys.argv[1:])
os._exit(4 if "openvino_telemetry" in sys.modules else 0)
"""


def test_nobody_is_told(tmp_path: Path) -> None:
    source = write(tmp_path / "m.onnx")
    home = {"HOME": str(tmp_path)}  # where the choice not to be watched would be kept
    command = [sys.executable, "-c", OFFLINE, str(source), str(tmp_path / "m.xml")]
    run = subprocess.run(command, env=home, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    assert not (tmp_path / "intel").exists()


def test_without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, openvino_ir.__name__)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'advconv-onnx\[openvino\]'"):
        importlib.import_module(openvino_ir.__name__)


def test_a_network_of_this_package(tmp_path: Path) -> None:
    net = catalog.build("mobilenet_v2", input_shape=("N", 3, "H", "W"), classes=10, width=0.25)
    files.save(net, tmp_path / "m.onnx")
    assert openvino_ir.export(tmp_path / "m.onnx", tmp_path / "m.xml").validation.passed


def test_a_trained_model(tmp_path: Path) -> None:
    try:
        source = model_path("ppocr_cls")
    except Unavailable as reason:
        pytest.skip(str(reason))
    artifact = openvino_ir.export(source, tmp_path / "m.xml")
    assert artifact.validation.max_relative < 1e-5
