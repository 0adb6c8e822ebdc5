"""advconv export: what it prints, writes and refuses."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from advconv_onnx import cli

NETWORK = """
import torch

class Words(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(50, 4)
    def forward(self, ids, weights):
        return (self.table(ids) * weights).sum(1)

class Refused(torch.nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)

def refused():
    return torch.nn.Sequential(torch.nn.ReLU(), Refused())
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "words_here.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def run(command: str) -> int:
    return cli.main(shlex.split(command))


def test_typed_inputs_the_opset_and_the_report(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = "export words_here:Words -o w.onnx --opset 21 --seed 3 --max-error 1e-5 --json r.json"
    assert run(f"{command} --input ids=NxT:int64 --input weights=Nx1x4") == 0
    assert "written to w.onnx" in capfd.readouterr().out
    model = onnx.load("w.onnx")
    assert model.opset_import[0].version == 21
    types = [value.type.tensor_type.elem_type for value in model.graph.input]
    assert types == [onnx.TensorProto.INT64, onnx.TensorProto.FLOAT]
    report = json.loads((folder / "r.json").read_text())
    assert report["passed"]
    assert report["max_error"] == 1e-5
    assert report["shapes"][1] == "ids=1x65 weights=1x1x4"


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch.export.save's own
def test_a_program_knows_its_inputs(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module = nn.Conv2d(3, 4, 3).eval()
    dims = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO}
    program = torch.export.export(module, (torch.randn(2, 3, 8, 8),), dynamic_shapes=(dims,))
    torch.export.save(program, "net.pt2")
    assert run("export net.pt2 -o net.onnx --quiet") == 0
    assert capfd.readouterr() == ("", "")
    assert [node.op_type for node in onnx.load("net.onnx").graph.node] == ["Conv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("words_here:Words --input ids=1x3:int99 --input weights=1x3", "type int99; use float32, "),
        ("words_here:Words --input ids=1x3:int64", "argument: 'weights'; the module's forward"),
        ("words_here:Words", "missing a required argument: 'ids'"),
        ("words_here:Words --input ids=1xx:int64", "--input 'ids=1xx' is not NAME=SHAPE"),
        ("words_here:Words --input ids", "--input 'ids' is not NAME=SHAPE"),
        ("torch.nn:Sigmoid --input input=1x3 --opset 9", "torch exports opsets 18 to"),
        ("torch.nn:Sigmoid --input input=1x3 --max-error nan", "not a number above 0"),
        ("torch.nn:Sigmoid --input input=1x3 --json out.onnx", "would replace a model"),
        (
            "words_here:refused --input input=1x3",
            "torch cannot export prims.bessel_j0.default of layer '1' (Refused) at input=1x3: "
            "DispatchError: No ONNX function found",
        ),
    ],
)
def test_what_cannot_be_exported(
    folder: Path, arguments: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.iterdir())
    assert run(f"export {arguments} -o out.onnx") == 2
    out, err = capfd.readouterr()
    assert message in err
    assert not out
    assert err.count("\n") == 1
    assert sorted(path for path in folder.iterdir() if path.name != "__pycache__") == before
