"""Wrong exports are found, and the layer they begin in is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.exporters import torch_module
from advconv_onnx.exporters.torch_module import export

Tensor = torch.Tensor


class Exported(nn.Module):
    """Something else when exported than in torch."""

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh() if torch.compiler.is_exporting() else x.sin()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.act = Exported()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.act(self.conv(x))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), Block(), nn.BatchNorm2d(4), nn.ReLU()).eval()


def test_the_first_layer_that_differs_is_named_with_its_node(tmp_path: Path) -> None:
    message = (
        r"output 'output' differs from torch by .* at input=2x3x12x14, "
        r"first in layer '1.act' \(Exported\), in ONNX Tanh 'node_tanh'; fix "
    )
    with pytest.raises(CheckError, match=message):
        export(network(), {"input": (2, 3, 12, 14)}, tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


def test_a_wrong_weight_is_found_in_its_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(model: ir.Model, seed: int) -> ir.Model:
        weight = max(model.graph.initializers.values(), key=lambda value: len(value.shape or ()))
        assert weight.const_value is not None
        array = weight.const_value.numpy().copy()
        array.flat[0] += 0.1
        weight.const_value = ir.tensor(array, name=weight.name)
        return model

    monkeypatch.setattr(torch_module, "canonical", spoiled)
    module = nn.Sequential(nn.Sigmoid(), nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())).eval()
    with pytest.raises(CheckError, match=r"first in layer '1.0' \(Conv2d\), in ONNX Conv 'node_"):
        export(module, {"input": (2, 3, 12, 14)}, tmp_path / "out.onnx")


def test_a_module_that_insists_on_its_precision_is_compared_in_it(tmp_path: Path) -> None:
    class Insisting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ torch.ones(3, 3, dtype=torch.float32)

    found = export(Insisting().eval(), {"x": (2, 3)}, tmp_path / "out.onnx")
    assert [note for note in found.notes if note.startswith("compared in the module's own prec")]


def test_half_precision_is_allowed_what_it_rounds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    found = export(nn.Linear(64, 8).half().eval(), {"input": ("N", 64)}, tmp_path / "half.onnx")
    assert found.max_error == 5e-3
    assert 1e-5 < found.max_relative < 5e-3


def test_training_mode_of_a_program_is_refused(tmp_path: Path) -> None:
    program = torch.export.export(nn.Sequential(nn.Dropout()), (torch.ones(2, 3),))
    with pytest.raises(InputError, match=r"in training mode \(aten.dropout.default\); call eval"):
        export(program, None, tmp_path / "out.onnx")


LARGE = """
import resource, sys, torch
from torch import nn
from advconv_onnx.exporters.torch_module import export

module = nn.Sequential(
    nn.Conv2d(3, 16, 3), nn.Flatten(), nn.Linear(16 * 30 * 30, 38_000), nn.Linear(38_000, 400)
)
found = export(module.eval(), {"input": ("N", 3, 32, 32)}, sys.argv[1])
assert found.passed and found.max_relative < 1e-5
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
print(found.notes[-1])
"""


@pytest.mark.long
def test_weights_beyond_2_gb_go_beside_the_model(tmp_path: Path) -> None:
    """2.25 GB of them; a process of its own shows what memory that takes."""
    out = tmp_path / "large.onnx"
    command = [sys.executable, "-c", LARGE, str(out)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, note = run.stdout.splitlines()
    assert note == f"the weights are in '{out}.data'; keep it beside the model"
    weights = Path(f"{out}.data").stat().st_size
    assert weights > 1 << 31
    assert out.stat().st_size < 1 << 16
    # Once as they are, and twice as much in float64.
    assert int(peak) < 4.5 * weights
    session = onnxruntime.InferenceSession(out)
    assert session.run(None, {"input": np.ones((1, 3, 32, 32), np.float32)})[0].shape == (1, 400)
