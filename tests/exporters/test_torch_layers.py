"""Every row of the table of torch's layers is exported, equal, and made of just these operators."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from torch import nn

from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.exporters.torch_arguments import TensorSpec
from advconv_onnx.exporters.torch_module import export
from tests.exporters import torch_layers
from tests.exporters.torch_layers import GROUPS_OF_LAYERS, Dims, Impossible, Layer

LONG = (
    "convolutions of rank 1",
    "convolutions of rank 3",
    "resizing of rank 1",
    "resizing of rank 3",
    "padding and pooling of rank 1",
    "padding and pooling of rank 3",
)
"""Groups that differ from others in the rank only."""


class SideBySide(nn.Module):
    """Layers that have an input and an output each: torch's exporter takes long to start."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        pairs = enumerate(zip(self.layers, x, strict=True))
        return {f"y{number}": layer(value) for number, (layer, value) in pairs}


def operators(model: ir.Model, output: ir.Value) -> str:
    """What an output is computed with, in the order of the graph."""
    needed: set[ir.Node] = set()
    waiting = [output]
    while waiting:
        node = waiting.pop().producer()
        if node is not None and node not in needed:
            needed.add(node)
            waiting += filter(None, node.inputs)
    return " ".join(node.op_type for node in model.graph if node in needed)


def exported(layers: Sequence[Layer], shapes: Sequence[Dims], out: Path) -> dict[str, str]:
    """The operators of each layer, in one model of all that was compared with torch."""
    torch.manual_seed(0)
    module = SideBySide([layer.make() for layer in layers]).eval()
    found = export(module, {"x": [TensorSpec(shape) for shape in shapes]}, out)
    assert [check.tensor for check in found.checks if check.range] == [
        f"y{number}" for number in range(len(layers))
    ]
    model = ir.load(out)
    pairs = zip(layers, model.graph.outputs, strict=True)
    return {layer.torch: operators(model, output) for layer, output in pairs}


@pytest.mark.parametrize(
    "group",
    [pytest.param(group, marks=[pytest.mark.long] * (group in LONG)) for group in GROUPS_OF_LAYERS],
)
def test_layers_are_what_the_table_says(tmp_path: Path, group: str) -> None:
    layers = list(GROUPS_OF_LAYERS[group]())
    found = exported(layers, [layer.shape for layer in layers], tmp_path / "out.onnx")
    assert found == {layer.torch: layer.onnx for layer in layers}


SIZES = {"N": 2, "L": 20, "D": 8, "H": 12, "W": 10}


@pytest.mark.long
@pytest.mark.parametrize("group", GROUPS_OF_LAYERS)
def test_fixed_sizes_need_no_more(tmp_path: Path, group: str) -> None:
    layers = list(GROUPS_OF_LAYERS[group]())
    shapes = [tuple(SIZES.get(str(dim), dim) for dim in layer.shape) for layer in layers]
    found = exported(layers, shapes, tmp_path / "out.onnx")
    for layer in layers:
        assert len(found[layer.torch].split()) <= len(layer.onnx.split())


def test_a_known_size_becomes_scales(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    export(nn.Upsample(size=(24, 20)).eval(), {"input": ("N", 4, 12, 10)}, out)
    [resize] = ir.load(out).graph
    assert resize.op_type == "Resize"
    assert resize.inputs[2] is not None
    assert resize.inputs[2].const_value is not None
    assert resize.inputs[2].const_value.numpy().tolist() == [1, 1, 2, 2]


def test_group_normalization_is_one_operator_of_opset_21(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    export(nn.GroupNorm(2, 4).eval(), {"input": torch_layers.IMAGES}, out, opset=21)
    assert [node.op_type for node in ir.load(out).graph] == ["GroupNormalization"]


@pytest.mark.parametrize("row", [*torch_layers.impossible()], ids=lambda row: row.torch)
def test_what_cannot_be_says_so_in_one_line(tmp_path: Path, row: Impossible) -> None:
    module = row.make().eval()
    with pytest.raises((CheckError, InputError), match=row.message) as raised:
        export(module, {"input": row.shape}, tmp_path / "out.onnx")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_the_document_is_the_table() -> None:
    assert torch_layers.DOCUMENT.read_text() == torch_layers.document(), (
        "run python -m tests.exporters.torch_layers"
    )
