"""``advconv convert`` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from advconv_onnx import model as files
from advconv_onnx.cli import main
from advconv_onnx.exporters import int8
from advconv_onnx.runtime.session import open_session
from tests.parsing import normal
from tests.test_cli import write_block


@pytest.fixture
def block(tmp_path: Path) -> Path:
    write_block(tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_float16_with_its_report(
    block: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, report = tmp_path / "half.onnx", tmp_path / "half.json"
    call = ["convert", str(block), "--to", "fp16", "-o", str(out), "--json", str(report)]
    assert main(call) == 0
    screen = capsys.readouterr().out
    assert "3 of 3 converted" in " ".join(screen.split())
    assert "does not pay" in " ".join(screen.split())
    document = json.loads(report.read_text())
    assert document["target"] == "fp16"
    assert document["max_relative"] <= 5e-3
    assert document["files"] == [str(out)]
    assert files.load(out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "fp8"], "--to 'fp8' is unknown"),
        (["--to", "fp16", "--max-error", "0"], "is not a number above 0"),
        (["--to", "int8"], "give some with --data"),
        (["--to", "int8", "--calibration", "best", "--data", "."], "'best' is unknown"),
        (["--to", "int8", "--data", "nowhere"], "cannot read --data 'nowhere'"),
        (["--to", "fp16", "--data", "."], "cannot read --data '.'"),
        (["--to", "fp16", "--metric", "top1"], "--metric: not for --to fp16"),
        (["--to", "ort"], "end it in .ort"),
        (["--to", "ort", "--float16-io"], "--float16-io: not for --to ort"),
        (["--to", "ort", "--labels", "l.txt"], "--labels: not for --to ort"),
        (["--to", "fp16", "--input", "y=1x3x8x8"], "'y'"),
        (["--to", "openvino"], "end it in .xml"),
        (["--to", "triton", "--labels", "l.txt"], "cannot read 'l.txt'"),
        (["--to", "ort", "--max-batch", "4"], "--max-batch: not for --to ort"),
        (["--to", "ort", "--float16-weights"], "--float16-weights: not for --to ort"),
        (["--to", "onnx"], "say which with --scale"),
        (["--to", "onnx", "--mean", "0.5", "--channels", "L"], "no input is a float tensor of 4"),
        (["--to", "onnx", "--mean", "0.5", "--resize", "8"], "--resize and --crop: not for --to"),
        (["--to", "ort", "--postprocess", "argmax"], "--postprocess: not for --to ort"),
    ],
)
def test_wrong_calls(
    block: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    out = tmp_path / "half.onnx"
    assert main(["convert", str(block), "-o", str(out), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_the_model_is_never_replaced(block: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = block.read_bytes()
    assert main(["convert", str(block), "--to", "fp16", "-o", str(block)]) == 2
    assert "never modified" in capsys.readouterr().err
    assert block.read_bytes() == before


def test_onnxruntimes_format(
    block: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.ort"
    assert main(["convert", str(block), "--to", "ort", "-o", str(out)]) == 0
    assert "m.required_operators.config" in "".join(capsys.readouterr().out.split())
    assert open_session(out)


def test_pictures_in_and_classes_out(
    block: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "whole.onnx"
    call = ["convert", str(block), "--to", "onnx", "-o", str(out), "--postprocess", "argmax"]
    assert main([*call, "--channels", "BGR", "--mean", "0.4,0.5,0.6", "--std", "0.25"]) == 0
    assert "takes pictures as uint8" in " ".join(capsys.readouterr().out.split())
    session = open_session(out)
    assert session.get_inputs()[0].type == "tensor(uint8)"
    assert session.get_inputs()[0].shape[-1] == 3
    assert session.get_outputs()[0].type == "tensor(int64)"


def test_a_folder_for_triton(
    block: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net"
    call = ["convert", str(block), "--to", "triton", "-o", str(out), "--instances", "3"]
    assert main(call) == 0
    assert "batch" in capsys.readouterr().out
    assert "instance_group { count: 3 kind: KIND_AUTO }" in (out / "config.pbtxt").read_text()
    assert main(call) == 2
    assert "exists" in capsys.readouterr().err


def test_openvino(block: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino")
    out = tmp_path / "m.xml"
    call = ["convert", str(block), "--to", "openvino", "-o", str(out), "--float16-weights"]
    assert main(call) == 0
    assert "m.bin" in "".join(capsys.readouterr().out.split())
    assert out.with_suffix(".bin").stat().st_size


def test_a_bundle_is_made_and_validated(
    block: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, labels = tmp_path / "net.zip", tmp_path / "labels.txt"
    call = ["convert", str(block), "--to", "bundle", "-o", str(out), "--labels", str(labels)]
    labels.write_text("one\ntwo\n")
    assert main(call) == 2
    assert "has 2 lines, but no output has as many channels" in capsys.readouterr().err
    labels.write_text("one\ntwo\nthree\nfour\n")
    assert main([*call, "--mean", "0.5", "--std", "0.25", "--resize", "8x8"]) == 0
    assert "SHA-256" in capsys.readouterr().out
    assert main(["validate", str(out)]) == 0
    assert "passed" in capsys.readouterr().out
    assert main(["validate", str(out), "--max-error", "1"]) == 2
    out.write_bytes(out.read_bytes()[:-100])
    assert main(["validate", str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_a_tampered_bundle_fails(
    block: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net"
    assert main(["convert", str(block), "--to", "bundle", "-o", str(out)]) == 0
    (out / "model.onnx").write_bytes(b"")
    assert main(["validate", str(out)]) == 1
    assert "model.onnx" in capsys.readouterr().err


def test_8_bits_from_a_folder(
    block: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "_SECONDS", 0.1)
    folder, out, report = tmp_path / "data", tmp_path / "q.onnx", tmp_path / "q.json"
    folder.mkdir()
    [taken] = files.load(block).graph.inputs
    assert taken.shape is not None
    sizes = [1 if not isinstance(dim, int) else dim for dim in taken.shape]
    for seed in range(8):
        np.save(folder / f"{seed}.npy", normal(*sizes, seed=seed))
    (folder / "bad.npy").write_bytes(b"no array")
    call = ["convert", str(block), "--to", "int8", "-o", str(out), "--data", str(folder)]
    options = ["--allow-slower", "--max-error", "0.2", "--calibration", "percentile"]
    assert main([*call, *options, "--json", str(report)]) == 0
    screen = " ".join(capsys.readouterr().out.split())
    assert "in float32" in screen
    assert "bad.npy" in screen
    document = json.loads(report.read_text())
    assert document["target"] == "int8"
    assert [each["name"] for each in document["measurement"]["timings"]] == ["float32", "int8"]
    assert main([*call[:-1], str(tmp_path / "q.json")]) == 2
    assert "no .npz" in capsys.readouterr().err
