import copy
import tempfile

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.runtime import session as module
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session

X = np.random.default_rng(0).standard_normal((1, 3, 6, 5)).astype(np.float32)


@pytest.fixture
def proto():
    weights = np.random.default_rng(1).standard_normal((4, 3, 3, 3)).astype(np.float32)
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> '
        "g (float[1, 3, 6, 5] x) => (float[1, 4, 4, 3] y) { y = Conv(x, w) }"
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    return model


@pytest.fixture
def expected(proto):
    return ReferenceEvaluator(proto).run(None, {"x": X})[0]


@pytest.fixture
def external(proto, tmp_path):
    """A model file with its weights in another file."""
    path = tmp_path / "external.onnx"
    proto = copy.deepcopy(proto)  # saving moves the weights out of it
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").exists()
    return path


def check(model, expected):
    y = run_session(open_session(model), {"x": X})["y"]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_file(external, expected):
    check(external, expected)


def test_graph_in_memory(proto, expected):
    check(ir.from_proto(proto), expected)


def test_graph_with_external_data_stays_as_it_is(external, expected):
    model = ir.load(external)
    check(model, expected)
    tensor = model.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert tensor.location == "weights.bin"


def test_graph_too_large_for_protobuf_goes_through_a_file_that_disappears(
    proto, expected, monkeypatch, tmp_path
):
    monkeypatch.setattr(module, "_INLINE_LIMIT", 100)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    saved = []
    monkeypatch.setattr(ir, "save", lambda *a, save=ir.save, **k: saved.append(a) or save(*a, **k))
    check(ir.from_proto(proto), expected)
    assert len(saved) == 1
    assert not list(tmp_path.iterdir())


def test_missing_external_data_is_an_input_error(external):
    model = ir.load(external)
    external.with_name("weights.bin").unlink()
    with pytest.raises(InputError, match=r"weights\.bin"):
        open_session(model)
    with pytest.raises(CheckError, match=r"weights\.bin"):
        open_session(external)


def test_error_names_the_model(tmp_path):
    path = tmp_path / "absent.onnx"
    with pytest.raises(CheckError, match=r"absent\.onnx: .*File doesn't exist"):
        open_session(path)
    graph = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17]> net (float[1] x) => (float[1] y) { y = Foo(x) }'
    )
    with pytest.raises(CheckError, match=r"graph 'net': .*No Op registered for Foo"):
        open_session(graph)
