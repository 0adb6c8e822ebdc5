"""Nested, typed and optional arguments of torch modules, by example and by description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from advconv_onnx.errors import InputError
from advconv_onnx.exporters.torch_arguments import TensorSpec, arguments_of
from advconv_onnx.exporters.torch_module import export

Tensor = torch.Tensor


class Nested(nn.Module):
    """A buffer, a pair, a mapping of keywords only, a flag, and indices into what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offsets", torch.arange(3.0)[:, None, None])
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(
        self,
        x: Tensor,
        pair: tuple[Tensor, Tensor],
        double: bool,
        *,
        options: dict[str, Tensor],
        index: Tensor | None = None,
    ) -> dict[str, object]:
        y = self.conv(x + self.offsets)
        if index is not None:
            y = y[:, index]
        scaled = pair[0] * (2 if double else 1)
        return {"y": y, "rest": [scaled + pair[1], {"kept": options["a"].where(options["b"], 0)}]}


def example() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Keywords for it, and the same by the names ONNX has for them."""
    torch.manual_seed(0)
    x, one, two, a = (torch.randn(*shape) for shape in ((2, 3, 8, 9), (2, 5), (2, 5), (6,)))
    b, index = torch.tensor([True, False] * 3), torch.tensor([3, 0, 3])
    keywords = {
        **{"x": x, "pair": (one, two), "double": True},
        **{"options": {"a": a, "b": b}, "index": index},
    }
    named = {"x": x, "pair_0": one, "pair_1": two, "options_a": a, "options_b": b, "index": index}
    return keywords, {name: tensor.numpy() for name, tensor in named.items()}


def test_nested_keywords_with_constants_integers_and_booleans(tmp_path: Path) -> None:
    module = Nested().eval()
    keywords, named = example()
    dynamic = {"x": ("N", 3, "H", 9), "pair_0": ("M", 5), "pair_1": ("M", 5)}
    found = export(module, keywords, tmp_path / "nested.onnx", dynamic=dynamic)
    assert [check.tensor for check in found.checks] == ["y", "rest_0", "rest_1_kept"]
    assert found.shapes[0] == "x=2x3x8x9 pair_0=2x5 pair_1=2x5 options_a=6 options_b=6 index=3"
    assert len(found.shapes) == 4
    assert not found.notes

    model = onnx.load(tmp_path / "nested.onnx")
    dims = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    }
    assert {name: dims[name] for name in dynamic} == {
        name: list(shape) for name, shape in dynamic.items()
    }
    assert list(dims) == list(named)
    session = onnxruntime.InferenceSession(tmp_path / "nested.onnx")
    outputs = session.run(None, named)
    with torch.no_grad():
        expected = module(**keywords)
    np.testing.assert_allclose(outputs[0], expected["y"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outputs[1], expected["rest"][0], rtol=1e-6)
    np.testing.assert_array_equal(outputs[2], expected["rest"][1]["kept"])


def test_one_tensor_and_a_tuple_stand_for_positions(tmp_path: Path) -> None:
    found = export(nn.Sigmoid().eval(), torch.randn(2, 3), tmp_path / "one.onnx")
    assert found.shapes == ("input=2x3",)
    assert found.inputs == 3, "the example, normal and uniform values"
    found = export(
        nn.Bilinear(3, 4, 5).eval(), (torch.ones(2, 3), torch.ones(2, 4)), tmp_path / "2"
    )
    assert found.shapes == ("input1=2x3 input2=2x4",)


def test_indices_are_drawn_as_large_as_the_module_takes_them(tmp_path: Path) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(120, 8)

        def forward(self, ids: Tensor) -> Tensor:
            return self.table(ids)

    out = tmp_path / "words.onnx"
    found = export(Words(), {"ids": TensorSpec(("N", "T"), "int64")}, out)
    assert len(found.shapes) == 4
    session = onnxruntime.InferenceSession(out)
    assert session.get_inputs()[0].type == "tensor(int64)"
    assert session.run(None, {"ids": np.full((1, 1), 119)})[0].shape == (1, 1, 8)


@pytest.mark.parametrize(
    ("given", "dynamic", "message"),
    [
        ({"x": (1, 3)}, None, "missing a required argument: 'pair'; .*'x', 'pair', 'double'"),
        ((torch.ones(2),) * 9, None, "too many positional arguments"),
        (None, {"y": ("N",)}, "dynamic 'y': no such input; the tensors are 'x', 'pair_0'"),
        (None, {"double": ("N",)}, "dynamic 'double': it is no tensor"),
        (None, {"x": ("N", 3)}, "dynamic 'x': Nx3 does not fit the example, which is 2x3x8x9"),
        (None, {"x": ("N", 4, 8, 9)}, "dynamic 'x': Nx4x8x9 does not fit the example"),
        ({"x": TensorSpec((1, 3, 0, 9))}, None, "'x': sizes must be at least 1, got 1x3x0x9"),
        ({"x": TensorSpec((1,), "int4")}, None, "'x' of type int4; use float32, "),
        ({"x": torch.ones(1, dtype=torch.complex64)}, None, "'x' is torch.complex64, which"),
        ({"x": torch.ones(1, dtype=torch.bfloat16)}, None, "'x' is torch.bfloat16, which"),
    ],
)
def test_wrong_arguments(given: Any, dynamic: Any, message: str) -> None:
    keywords, _ = example()
    is_incomplete = isinstance(given, tuple) or message.startswith("missing")
    whole = given if is_incomplete else {**keywords, **(given or {})}
    with pytest.raises(InputError, match=message) as raised:
        arguments_of(Nested(), whole, dynamic)
    assert "\n" not in str(raised.value)


def test_a_module_without_tensors() -> None:
    class Constant(nn.Module):
        def forward(self, size: int) -> Tensor:
            return torch.ones(size)

    with pytest.raises(InputError, match="takes no tensor; export one whose inputs are tensors"):
        arguments_of(Constant(), (3,))
