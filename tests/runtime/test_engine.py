import numpy as np
import onnx
import pytest

from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.runtime.engine import create_session, resolve_threads, run_session


def serialized(body: str, imports: str = '"" : 17') -> bytes:
    text = f"<ir_version: 8, opset_import: [{imports}]> g (float[2, 3] x) => (float[2, 3] y) {body}"
    return onnx.parser.parse_model(text).SerializeToString()


def test_runs_every_output_by_name():
    session = create_session(serialized("{ y = Neg(x) }"), "m")
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    outputs = run_session(session, {"x": x})
    assert list(outputs) == ["y"]
    np.testing.assert_array_equal(outputs["y"], -x)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            serialized("{ y = my.dom.Foo(x) }", '"" : 17, "my.dom" : 1'),
            "operator my.dom:Foo is unknown to ONNX Runtime",
        ),
        (serialized("{ y = Neg(x) }", '"" : 99'), "opset 99 of ai.onnx is newer than opset"),
        (serialized("{ y = Foo(x) }"), "No Op registered for Foo"),
        (serialized("{ y = Neg(z) }"), "Node input 'z' is not a graph input"),
        (b"hello there, world\n", "protobuf parsing failed"),
        (b"", "No graph was found"),
    ],
    ids=["custom operator", "opset", "unknown operator", "unknown value", "text", "empty"],
)
def test_model_that_does_not_load_is_one_clear_line(source, message):
    with pytest.raises(CheckError) as caught:
        create_session(source, "bad.onnx")
    text = str(caught.value)
    assert text.startswith("bad.onnx: ONNX Runtime does not load it: ")
    assert message in text
    assert "\n" not in text
    assert "ONNXRuntimeError" not in text


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "x"),
        ({"z": np.zeros((2, 3), np.float32)}, "x"),
        ({"x": np.zeros((2, 3, 1), np.float32)}, "rank"),
        ({"x": np.zeros((2, 3), np.float64)}, "float"),
    ],
)
def test_input_that_does_not_fit_is_a_check_error(inputs, message):
    session = create_session(serialized("{ y = Neg(x) }"), "m")
    with pytest.raises(CheckError, match=f"does not run.*{message}"):
        run_session(session, inputs)


def test_graph_optimizations_can_be_off(tmp_path):
    model = serialized("{ a = Identity(x) y = Neg(a) }")
    for enabled, expected in [(True, 1), (False, 2)]:
        session = create_session(
            model,
            "m",
            graph_optimizations=enabled,
            entries={"session.record_ep_graph_assignment_info": "1"},
        )
        parts = session.get_provider_graph_assignment_info()
        assert sum(len(part.get_nodes()) for part in parts) == expected


def test_failing_provider_does_not_fall_back_silently():
    assert not create_session(serialized("{ y = Neg(x) }"), "m")._enable_fallback


def test_threads():
    assert resolve_threads(3) == 3
    assert resolve_threads(None) >= 1
    with pytest.raises(InputError, match="threads=0"):
        create_session(serialized("{ y = Neg(x) }"), "m", threads=0)
    session = create_session(serialized("{ y = Neg(x) }"), "m", threads=2)
    options = session.get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
