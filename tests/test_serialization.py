"""Models written weight by weight are, byte for byte, what protobuf writes at once."""

from __future__ import annotations

import io
import pathlib

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from advconv_onnx import catalog, serialization
from tests.parsing import normal, parse

LIGHT = pathlib.Path(onnx.__file__).parent / "backend/test/data/light"


def written(model: ir.Model) -> bytes:
    file = io.BytesIO()
    serialization.write(model, file)
    return file.getvalue()


@pytest.mark.parametrize(
    "model",
    [
        catalog.build("mobilenet_v2", width=0.25, classes=7),
        parse(
            '<ir_version: 10, opset_import: ["": 21, "l": 1], metadata_props: ["k": "v"]>'
            "g (float[N,2] x) => (float[N,2] z) { y = l.f(x, w) z = Add(y, b) }"
            '<domain: "l", opset_import: ["" : 21]> f (a, b) => (c) { c = Mul(a, b) }',
            w=normal(2),
            b=np.float32(3),
        ),
        parse('<ir_version: 8, opset_import: ["": 15]> g (float[1] x) => (float[1] x) {}'),
    ],
    ids=["network", "functions", "empty"],
)
def test_same_bytes_as_protobuf(model: ir.Model) -> None:
    assert written(model) == ir.to_proto(model).SerializeToString()


@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx"))[:3], ids=lambda path: path.stem)
def test_same_bytes_for_networks_of_others(path: pathlib.Path) -> None:
    model = ir.load(path)
    assert written(model) == ir.to_proto(model).SerializeToString()


def test_the_model_keeps_its_weights() -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["": 15]> g (float[2] x) => (float[2] y) { y = Add(x, w) }',
        w=normal(2),
    )
    written(model)
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), normal(2))


def test_weights_have_the_names_of_their_values() -> None:
    model = catalog.build("conv", channels=1)
    model.graph.initializers["conv.weight"].const_value.name = "another"
    names = [tensor.name for tensor in onnx.load_from_string(written(model)).graph.initializer]
    assert names == ["conv.weight", "conv.bias"]


@pytest.mark.parametrize("length", [0, 1, 127, 128, 300, 1 << 14, (1 << 31) - 1])
def test_lengths_are_framed_as_protobuf_frames_them(length: int) -> None:
    encoded = onnx.TensorProto(int64_data=[length]).SerializeToString()
    assert encoded.endswith(serialization._varint(length))
