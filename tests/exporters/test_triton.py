"""A Triton repository: parsed by Triton's own schema, and batched only where that is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from google.protobuf import text_format

from advconv_onnx import model as files
from advconv_onnx.errors import InputError
from advconv_onnx.exporters.triton import export
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session
from tests.parsing import normal, parse

GOLDEN = Path(__file__).parent / "golden" / "config.pbtxt"

CONV = "y = Conv <pads = [1, 1, 1, 1]> (x, w)"


def write(path: Path, head: str, nodes: str = CONV) -> Path:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g {head} {{ {nodes} }}'
    files.save(parse(text, w=normal(4, 4, 3, 3), axes=np.array([1, 2, 3])), path)
    return path


def parsed(repository: Path, name: str = "net") -> Any:
    """The configuration as Triton reads it."""
    from tritonclient.grpc import model_config_pb2

    text = (repository / name / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


HEAD = "(float[N, 4, H, 8] x) => (float[N, 4, H, 8] y, float[N] mean)"
NODES = f"{CONV} mean = ReduceMean <keepdims = 0, axes = [1, 2, 3]> (y)"


def test_the_configuration_is_what_it_was(tmp_path: Path) -> None:
    artifact = export(write(tmp_path / "net.onnx", HEAD, NODES), tmp_path / "models")
    written = tmp_path / "models" / "net" / "config.pbtxt"
    assert written.read_text() == GOLDEN.read_text()
    assert artifact.files == (
        str(tmp_path / "models" / "net" / "1" / "model.onnx"),
        str(written),
    )
    assert "dynamic batching of up to 8" in artifact.notes[0]


def test_triton_reads_it(tmp_path: Path) -> None:
    export(write(tmp_path / "net.onnx", HEAD, NODES), tmp_path / "models")
    config = parsed(tmp_path / "models")
    assert (config.name, config.backend, config.max_batch_size) == ("net", "onnxruntime", 8)
    assert list(config.input[0].dims) == [4, -1, 8]
    assert config.output[1].HasField("reshape")
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000
    assert list(config.model_warmup[0].inputs["x"].dims) == [4, 33, 8]


def test_the_model_in_it_computes_the_same(tmp_path: Path) -> None:
    source = write(tmp_path / "net.onnx", HEAD, NODES)
    export(source, tmp_path / "models", name="other name")
    x = {"x": normal(3, 4, 5, 8)}
    model = tmp_path / "models" / "other_name" / "1" / "model.onnx"
    found, want = (run_session(open_session(path), x)["y"] for path in (model, source))
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize(
    ("head", "nodes"),
    [
        ("(float[1, 4, 6, 8] x) => (float[1, 4, 6, 8] y)", CONV),
        ("(float[N, 4, 6, 8] x, float[M, 4] q) => (float[N, 4, 6, 8] y)", CONV),
        # What looks like a batch, but is normalized over.
        ("(float[N, 4, 6, 8] x) => (float[N, 4, 6, 8] y)", "y = Softmax <axis = 0> (x)"),
        ("(float[N, 4, 6, 8] x) => (float[M, 4, 6, 8] y)", "y = Concat <axis = 0> (x, x)"),
    ],
)
def test_no_batch_where_samples_would_mix(tmp_path: Path, head: str, nodes: str) -> None:
    artifact = export(write(tmp_path / "net.onnx", head, nodes), tmp_path / "models")
    config = parsed(tmp_path / "models")
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert "no batching" in artifact.notes[0]
    assert list(config.input[0].dims)[1:] == [4, 6, 8]


def test_integers_and_scalars(tmp_path: Path) -> None:
    head = "(int64[N, 3] x, bool[N] q) => (int64[N, 3] y)"
    nodes = "n = Cast <to = 7> (q) m = Unsqueeze (n, one) y = Add (x, m)"
    text = f'<ir_version: 8, opset_import: ["" : 17]> g {head} {{ {nodes} }}'
    files.save(parse(text, one=np.array([1])), tmp_path / "net.onnx")
    export(tmp_path / "net.onnx", tmp_path / "models")
    config = parsed(tmp_path / "models")
    warm = config.model_warmup[0].inputs
    assert warm["x"].zero_data
    assert list(config.input[1].reshape.shape) == []
    assert config.max_batch_size == 8


def test_an_existing_model_is_kept(tmp_path: Path) -> None:
    source = write(tmp_path / "net.onnx", HEAD, NODES)
    export(source, tmp_path / "models")
    with pytest.raises(InputError, match="exists"):
        export(source, tmp_path / "models")
    export(source, tmp_path / "models", name="second")
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"net", "second"}


def test_a_type_triton_does_not_have(tmp_path: Path) -> None:
    model = files.load(
        write(
            tmp_path / "net.onnx",
            "(float[N, 4] x) => (float8e5m2[N, 4] y)",
            "y = Cast <to = 19> (x)",
        )
    )
    assert model.graph.outputs[0].dtype == ir.DataType.FLOAT8E5M2
    with pytest.raises(InputError, match="no tensors of type"):
        export(tmp_path / "net.onnx", tmp_path / "models")
    assert not (tmp_path / "models" / "net").exists()
