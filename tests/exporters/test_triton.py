"""A folder for Triton: as its own schema reads it, and batched only where that is right."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advconv_onnx import catalog
from advconv_onnx import model as files
from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.exporters import triton
from advconv_onnx.exporters.triton import export
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session
from samples.fetch_models import Unavailable, model_path
from tests.parsing import normal, parse

GOLDEN = Path(__file__).parent / "golden" / "config.pbtxt"

CONV = "y = Conv <pads = [1, 1, 1, 1]> (x, w)"
HEAD = "(float[N, 4, H, 8] x) => (float[N, 4, H, 8] y, float[N] mean)"
NODES = f"{CONV} mean = ReduceMean <keepdims = 0, axes = [1, 2, 3]> (y)"


def write(path: Path, head: str = HEAD, nodes: str = NODES) -> Path:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g {head} {{ {nodes} }}'
    files.save(parse(text, w=normal(4, 4, 3, 3), column=np.array([-1, 1])), path)
    return path


def configured(folder: Path) -> list[str]:
    return (folder / "config.pbtxt").read_text().splitlines()


def test_the_configuration_is_what_it_was(tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("cat\ndog\n")
    head = f"{HEAD.removesuffix(')')}, float[N, 2] score)"
    pooled = "g = GlobalMaxPool (y) f = Flatten (g) a, b = Split <axis = 1> (f)"
    source = write(tmp_path / "m.onnx", head, f"{NODES} {pooled} score = Sub (a, b)")
    artifact = export(
        source, tmp_path / "net", labels=tmp_path / "labels", max_batch=16, instances=2
    )
    assert (tmp_path / "net" / "config.pbtxt").read_text() == GOLDEN.read_text()
    written = ("1/model.onnx", "config.pbtxt", "labels.txt")
    assert artifact.files == tuple(str(tmp_path / "net" / name) for name in written)
    assert (tmp_path / "net" / "labels.txt").read_text() == "cat\ndog\n"
    assert artifact.notes == ("batches of up to 16",)


def test_the_model_in_it_computes_the_same(tmp_path: Path) -> None:
    source = write(tmp_path / "m.onnx")
    export(source, tmp_path / "net")
    x = {"x": normal(3, 4, 5, 8)}
    model = tmp_path / "net" / "1" / "model.onnx"
    found, want = (run_session(open_session(path), x)["y"] for path in (model, source))
    np.testing.assert_array_equal(found, want)


CENTRED = "m = ReduceMean <axes = [0]> (x) y = Sub (x, m)"
IMAGES = "(float[N, 4, 6, 8] x) => (float[N, 4, 6, 8] y)"
UNRELATED = "(float[N, 4, 6, 8] x, float[M, 4] q) => (float[N, 4, 6, 8] y, float[M, 4] z)"


@pytest.mark.parametrize(
    ("head", "nodes", "why"),
    [
        ("(float[1, 4, 6, 8] x) => (float[1, 4, 6, 8] y)", CONV, "dynamic first"),
        (UNRELATED, f"{CONV} z = Abs (q)", "different names"),
        ("(float[N, 3] x) => (float y)", "y = ReduceMax <keepdims = 0> (x)", "dynamic first"),
        ("() => (int64[M, 1] y)", "a = NonZero (column) y = Reshape (a, column)", "dynamic first"),
        # Several rows for each sample, of which Triton would give every client the wrong ones.
        ("(float[N, 4] x) => (float[M, 1] y)", "y = Reshape (x, column)", "of each alone"),
        # What looks like a batch, but is computed over.
        (IMAGES, CENTRED, "not that of each alone"),
        (IMAGES, "y = Softmax <axis = 0> (x)", "not that of each alone"),
    ],
)
def test_no_batch_where_samples_would_mix(tmp_path: Path, head: str, nodes: str, why: str) -> None:
    artifact = export(write(tmp_path / "m.onnx", head, nodes), tmp_path / "net")
    lines = configured(tmp_path / "net")
    assert "max_batch_size: 0" in lines
    assert not any("dynamic_batching" in line for line in lines)
    assert artifact.notes[0].startswith("no batching: ")
    assert why in artifact.notes[0]


def test_one_sample_is_not_compared_with_itself(tmp_path: Path) -> None:
    source = write(tmp_path / "m.onnx", IMAGES, CENTRED)
    artifact = export(source, tmp_path / "net", data={"x": normal(2, 4, 6, 8)})
    assert "not that of each alone" in artifact.notes[0]


def test_a_batch_of_one_is_not_waited_for(tmp_path: Path) -> None:
    export(write(tmp_path / "m.onnx"), tmp_path / "net", max_batch=1)
    assert "max_batch_size: 1" in configured(tmp_path / "net")
    assert not any("dynamic_batching" in line for line in configured(tmp_path / "net"))


def test_another_result_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def off(session: Any, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: y + 1 for name, y in run_session(session, inputs).items()}

    monkeypatch.setattr(triton, "run_session", off)
    with pytest.raises(CheckError, match="differs by"):
        export(write(tmp_path / "m.onnx"), tmp_path / "net")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch": 0}, "--max-batch must be 1 or more"),
        ({"instances": -1}, "--instances must be 1 or more"),
        ({"labels": "three"}, r"has 3 lines, but no output has as many .*y=1x4x47x8, mean=1"),
        ({"labels": "missing"}, "cannot read .*missing': No such file"),
        ({"labels": "bytes"}, "no text in UTF-8"),
    ],
)
def test_wrong_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("three").write_text("a\nb\nc\n")
    Path("bytes").write_bytes(b"\xff")
    with pytest.raises(InputError, match=message):
        export(write(tmp_path / "m.onnx"), "net", **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bytes", "m.onnx", "three"]


def test_an_existing_folder_is_kept(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    with pytest.raises(InputError, match="exists; remove it"):
        export(write(tmp_path / "m.onnx"), tmp_path / "net")
    assert not list((tmp_path / "net").iterdir())


def test_a_type_that_triton_does_not_have(tmp_path: Path) -> None:
    head = "(float[N, 4] x) => (float8e5m2[N, 4] y, float[N, 4] z)"
    source = write(tmp_path / "m.onnx", head, "z = Abs (x) y = Cast <to = 19> (x)")
    with pytest.raises(InputError, match="'y': Triton has no tensors of type"):
        export(source, tmp_path / "net")
    assert not (tmp_path / "net").exists()


PARSE = """
import json, sys
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
for path in sys.argv[1:]:
    config = text_format.Parse(open(path).read(), model_config_pb2.ModelConfig())
    print(json.dumps(json_format.MessageToDict(config)))
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Triton's client, whose protobuf is older than ours, in an environment of its own."""
    folder = tmp_path_factory.mktemp("client")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    wanted = ["tritonclient[grpc]==2.73.0", "protobuf<7"]
    pip = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *wanted], capture_output=True, text=True
    )
    if pip.returncode:
        pytest.skip(f"Triton's client cannot be installed: {pip.stderr.strip()[-300:]}")
    return python


def parsed(client: Path, *folders: Path) -> list[dict[str, Any]]:
    """Configurations as Triton reads them."""
    command = [client, "-c", PARSE, *(folder / "config.pbtxt" for folder in folders)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.long
def test_triton_reads_it(tmp_path: Path, client: Path) -> None:
    (golden,) = parsed(client, GOLDEN.parent)
    assert (golden["name"], golden["backend"]) == ("net", "onnxruntime")
    assert golden["maxBatchSize"] == 16
    assert golden["input"] == [{"name": "x", "dataType": "TYPE_FP32", "dims": ["4", "-1", "8"]}]
    assert golden["output"][1] == {
        "name": "mean",
        "dataType": "TYPE_FP32",
        "dims": ["1"],
        "reshape": {},
    }
    assert [y.get("labelFilename") for y in golden["output"]] == [None, None, "labels.txt"]
    assert golden["dynamicBatching"] == {"maxQueueDelayMicroseconds": "1000"}
    assert golden["instanceGroup"] == [{"count": 2}]  # of the kind that is the default
    warm = golden["modelWarmup"][0]
    assert warm["batchSize"] == 1
    assert warm["inputs"]["x"]["dims"] == ["4", "47", "8"]
    assert warm["inputs"]["x"]["zeroData"]


STRANGE = 'a "b" \\ \u00e9 {'


@pytest.mark.long
def test_triton_reads_all_types_and_strange_names(tmp_path: Path, client: Path) -> None:
    kinds = ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
    kinds = (*kinds, "float16", "float", "double")
    inputs = ", ".join(f"{kind}[N, 2] x{i}" for i, kind in enumerate(kinds))
    outputs = ", ".join(f"{kind}[N, 2] y{i}" for i, kind in enumerate(kinds))
    nodes = " ".join(f"y{i} = Identity (x{i})" for i in range(len(kinds)))
    model = files.load(write(tmp_path / "m.onnx", f"({inputs}) => ({outputs})", nodes))
    model.graph.inputs[0].name = STRANGE
    files.save(model, tmp_path / "strange.onnx")
    export(tmp_path / "strange.onnx", tmp_path / STRANGE)
    (config,) = parsed(client, tmp_path / STRANGE)
    assert config["name"] == config["input"][0]["name"] == STRANGE
    types = [triton._TYPES[value.dtype] for value in model.graph.inputs]
    for kind in ("input", "output"):
        assert [value["dataType"] for value in config[kind]] == types
    assert config["maxBatchSize"] == 8


@pytest.mark.long
def test_triton_reads_what_has_no_batch(tmp_path: Path, client: Path) -> None:
    export(write(tmp_path / "m.onnx", IMAGES, CENTRED), tmp_path / "net")
    (config,) = parsed(client, tmp_path / "net")
    assert "maxBatchSize" not in config
    assert config["input"][0]["dims"] == ["-1", "4", "6", "8"]
    assert config["modelWarmup"][0]["batchSize"] == 1
    assert config["modelWarmup"][0]["inputs"]["x"]["dims"] == ["1", "4", "6", "8"]


def test_a_network_of_this_package(tmp_path: Path) -> None:
    net = catalog.build("mobilenet_v2", input_shape=("N", 3, 32, 32), classes=10, width=0.25)
    files.save(net, tmp_path / "m.onnx")
    assert export(tmp_path / "m.onnx", tmp_path / "net").notes == ("batches of up to 8",)


def test_a_trained_model(tmp_path: Path) -> None:
    try:
        source = model_path("ppocr_cls")
    except Unavailable as reason:
        pytest.skip(str(reason))
    export(source, tmp_path / "net")
    assert "max_batch_size: 8" in configured(tmp_path / "net")
