import dataclasses
import weakref

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from advconv_onnx.errors import CheckError
from advconv_onnx.runtime import validate as module
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.reference import Reference
from advconv_onnx.runtime.session import open_session
from advconv_onnx.runtime.validate import (
    gather,
    usual_error,
    validate,
    validate_run,
    validate_runtime,
)
from tests.parsing import parse

C = 32
DETECTOR = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3, H, W] x) => (float[N, M, H, W] y) {{
  a = Conv <pads = [1, 1, 1, 1]> (x, w0)
  b = BatchNormalization (a, scale, shift, mean, variance)
  c = Relu (b)
  d = Conv (c, w1)
  e = Add (d, offset)
  y = {last}
}}
"""


def build(text, **weights):
    """A model from ONNX text; arrays given by name become its initializers."""
    proto = onnx.parser.parse_model(text)
    for name, array in weights.items():
        tensor = onnx.numpy_helper.from_array(np.asarray(array, np.float32), name)
        proto.graph.initializer.append(tensor)
    return ir.from_proto(proto)


def detector(last="Identity(e)", offset=0.0, **changes):
    rng = np.random.default_rng(0)
    weights = {
        "w0": rng.standard_normal((C, 3, 3, 3)) / 5,
        "scale": rng.uniform(0.5, 2, C),
        "shift": rng.standard_normal(C),
        "mean": rng.standard_normal(C) / 5,
        "variance": rng.uniform(0.5, 2, C),
        "w1": rng.standard_normal((4, C, 1, 1)) / 5,
        "offset": np.float64(offset),
    }
    return build(DETECTOR.format(last=last), **(weights | changes))


def folded(training=False, last="Identity(e)", offset=0.0):
    """The detector with its BatchNormalization folded, with the wrong statistics if training."""
    plain = detector(last, offset)
    p = {name: value.const_value.numpy() for name, value in plain.graph.initializers.items()}
    variance = p["variance"] * (1.5 if training else 1)
    factor = p["scale"] / np.sqrt(variance + 1e-5)
    return detector(
        last,
        offset,
        w0=p["w0"] * factor[:, None, None, None],
        scale=np.sqrt(np.ones(C) + 1e-5),
        mean=np.zeros(C),
        variance=np.ones(C),
        shift=p["shift"] - p["mean"] * factor,
    )


def one_weight_changed(model, name, factor):
    copy = model.clone()
    value = copy.graph.initializers[name]
    array = value.const_value.numpy().copy()
    array.flat[np.abs(array).argmax()] *= factor
    value.const_value = ir.tensor(array, name=name)
    return copy


def test_a_correct_fold_passes_and_is_judged_in_float64():
    result = validate(detector(), folded())
    assert result.passed
    assert [check.tensor for check in result.checks] == ["y"]
    assert 0 < result.max_relative < 1e-5
    assert result.notes == ()
    assert len(result.shapes) == 3
    assert result.inputs == 9


@pytest.mark.parametrize(("name", "factor"), [("w0", 1.01), ("w1", 1.01), ("w1", -1)])
def test_one_changed_weight_fails(name, factor):
    original = detector()
    result = validate(original, one_weight_changed(original, name, factor))
    assert not result.passed
    assert result.max_relative > 1e-4


def test_a_fold_with_the_wrong_statistics_fails():
    assert not validate(detector(), folded(training=True)).passed


def test_a_parameter_along_the_width_fails_although_it_fits_where_width_equals_channels():
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1, 3, 32, 32] x) => (float y)
        { h = Conv(x, w)  y = Add(h, b) }"""
    weight, bias = np.ones((C, 3, 1, 1)), np.arange(C)
    along_channels = build(text, w=weight, b=bias.reshape(1, C, 1, 1))
    assert validate(along_channels, along_channels).passed
    assert not validate(along_channels, build(text, w=weight, b=bias)).passed


@pytest.mark.parametrize("last", ["Sigmoid(e)", "Tanh(e)"])
def test_a_saturated_output_is_replaced_by_the_tensor_before_it(last):
    original = detector(last, offset=-40.0)
    result = validate(original, folded(last=last, offset=-40.0))
    assert result.passed
    assert [(check.tensor, check.stands_for) for check in result.checks] == [("y", ""), ("e", "y")]
    assert "output 'y' is (nearly) constant or saturated" in result.notes[0]
    assert "inner tensor 'e'" in result.notes[0]


def test_the_stand_in_is_no_degenerate_tensor_either():
    original = detector("Sigmoid(e)", offset=-1e5)
    result = validate(original, original)
    assert [check.tensor for check in result.checks] == ["y", "d"]


def test_a_mistake_behind_a_saturated_output_is_found():
    original = detector("Sigmoid(e)", offset=-40.0)
    result = validate(original, one_weight_changed(original, "w1", 1.01))
    assert not result.passed
    assert result.checks[0].max_relative < 1e-4 < result.checks[1].max_relative


def test_nothing_is_proved_when_no_inner_tensor_can_stand_in():
    original = detector("Sigmoid(e)", offset=-40.0)
    candidate = original.clone()
    for node in candidate.graph:
        for value in node.outputs:
            value.name = "y" if value.name == "y" else f"other_{value.name}"
    result = validate(original, candidate)
    assert not result.passed
    assert "nothing is proved" in result.notes[-1]


def test_an_output_of_constants_needs_no_stand_in():
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2, 3] x) => (float[2, 3] y, float[1] z)'
        "{ y = Neg(x)  z = Constant <value = float[1] {3.0}> () }"
    )
    assert validate(model, model).passed


def argmax(**changes):
    model = detector(**changes)
    node = ir.node("ArgMax", [model.graph.outputs[0]], attributes={"axis": 1})
    node.outputs[0].name = "classes"
    model.graph.append(node)
    model.graph.outputs[:] = [node.outputs[0]]
    return model


def test_indices_must_be_equal():
    assert validate(argmax(), argmax()).passed
    w1 = detector().graph.initializers["w1"].const_value.numpy().copy()
    w1[0] *= -1
    assert not validate(argmax(), argmax(w1=w1)).passed


def test_the_first_differing_layer_is_named():
    original = detector()
    result = validate(original, one_weight_changed(original, "w1", 1.5), layers=True)
    assert "first tensor beyond max_error: 'd' (Conv" in result.notes[-1]
    result = validate(original, original, layers=True)
    assert result.notes[-1] == "all 6 tensors that both models name agree for x=1x3x33x47"


def test_an_inner_tensor_may_have_lost_a_dimension_of_size_one():
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 8] x) => (float[1, 8] y) <int64[1] flat = {{8}}, int64[2] back = {{1, 8}}> {{
      a = {first}
      b = Relu (a)
      y = {last}
    }}"""
    original = build(text.format(first="Neg (x)", last="Identity (b)"))
    candidate = build(text.format(first="Reshape (n, flat)", last="Reshape (b, back)"))
    candidate.graph.insert_before(
        candidate.graph[0], negate := ir.node("Neg", [candidate.graph.inputs[0]])
    )
    negate.outputs[0].name = "n"
    candidate.graph[1].replace_input_with(0, negate.outputs[0])
    notes = validate(original, candidate, layers=True).notes
    assert notes[-1] == "all 3 tensors that both models name agree for x=1x8"


def test_other_names_fail_with_a_note():
    candidate = detector()
    candidate.graph.outputs[0].name = "z"
    result = validate(detector(), candidate)
    assert not result.passed
    assert result.notes == ("the outputs have other names: missing y, new z",)


def test_another_type_or_shape_fails_with_a_note():
    wider = detector("Cast <to = 11> (e)")
    wider.graph.outputs[0].type = ir.TensorType(ir.DataType.DOUBLE)
    assert validate(detector(), wider).notes == (
        "output 'y' has type float64, the original has float32",
    )
    result = validate(detector(), detector("Transpose <perm = [0, 2, 3, 1]> (e)"))
    assert not result.passed
    assert "output 'y' has shape" in result.notes[0]


def test_a_candidate_that_does_not_run_fails_with_a_note():
    result = validate(detector(), detector(w0=np.zeros((C, 2, 3, 3))))
    assert not result.passed
    assert "output 'y' cannot be computed for x=1x3x" in result.notes[0]


def test_an_original_that_does_not_load_is_an_error():
    with pytest.raises(CheckError, match="does not load"):
        validate(detector("Unheard(e)"), detector())


def test_without_float64_the_original_is_the_judge(monkeypatch):
    def refuse(_model):
        raise CheckError("operator Odd (node 'n') has no float64 reference")

    monkeypatch.setattr("advconv_onnx.runtime.validate.Reference", refuse)
    original = detector()
    result = validate(original, folded())
    assert result.passed
    assert result.notes == ("operator Odd (node 'n') has no float64 reference",)
    assert not validate(original, one_weight_changed(original, "w0", 1.01)).passed
    result = validate_runtime(original)
    assert result.passed
    assert result.notes[-1] == "compared with ONNX Runtime without graph optimizations instead"


@pytest.mark.parametrize(("size", "judged"), [(300, "float64"), (900, "itself")])
def test_large_inputs_are_judged_in_float64_up_to_a_limit(size, judged, monkeypatch):
    calls = []
    run = Reference.run
    monkeypatch.setattr(Reference, "run", lambda *a, **k: calls.append(1) or run(*a, **k))
    x = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)
    result = validate(detector(), folded(), data={"x": x})
    assert result.passed
    assert len(calls) == (judged == "float64")
    shape = f"x=1x3x{size}x{size}"
    expected = () if calls else (f"too large for the float64 reference: {shape}",)
    assert result.notes == expected


def test_the_runtime_alone_agrees_with_float64():
    result = validate_runtime(detector(), layers=True)
    assert result.passed
    assert 0 < result.max_relative < 1e-5
    assert not validate_runtime(detector(), max_error=1e-12).passed


def test_the_runtime_alone_is_judged_by_float64(monkeypatch):
    run = Reference.run
    monkeypatch.setattr(Reference, "run", lambda *args: {k: v + 1 for k, v in run(*args).items()})
    assert not validate_runtime(detector()).passed


def test_same_seed_same_result():
    one, same = (validate(detector(), folded(), seed=5) for _ in range(2))
    assert dataclasses.asdict(one) == dataclasses.asdict(same)


def test_neither_model_is_changed():
    original, candidate = detector("Sigmoid(e)", -40.0), folded(last="Sigmoid(e)", offset=-40.0)
    before = [ir.to_proto(m).SerializeToString(deterministic=True) for m in (original, candidate)]
    validate(original, candidate, layers=True)
    after = [ir.to_proto(m).SerializeToString(deterministic=True) for m in (original, candidate)]
    assert before == after


@pytest.mark.parametrize("large", [False, True])
def test_models_with_large_weights_are_compared_one_at_a_time(monkeypatch, large):
    """And without copies of the weights."""
    together = []

    def counted(model, **options):
        session = open_session(model, **options)
        alive.append(weakref.ref(session))
        together.append(sum(reference() is not None for reference in alive))
        return session

    alive = []
    monkeypatch.setattr(module, "open_session", counted)
    monkeypatch.setattr(module, "_LARGE", 0 if large else 1 << 30)
    found = validate(detector(), folded())
    assert found.passed
    assert found.max_relative < 1e-6
    assert ("without ONNX Runtime's own optimizations" in " ".join(found.notes)) == large
    assert max(together) == (1 if large else 2)


@pytest.mark.parametrize(
    ("nodes", "error"),
    [
        ("y = Relu (x)", 1e-4),
        ("q = QuantizeLinear (x, s) y = DequantizeLinear (q, s)", 2e-2),
        ("h = Cast <to = 10> (s) y = CastLike (h, x)", 1e-4),
    ],
)
def test_the_error_that_rounding_explains(nodes: str, error: float) -> None:
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) {{
            {nodes}
        }}""",
        s=np.float32(0.5),
    )
    assert usual_error(model) == error


def answers(last, weight, unlikeliest=-20):
    """A classifier that is always sure, and the verdict on one whose weights are others."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3] x) => (float[N, 4] y) {{
        a = MatMul (x, w)
        b = Add (a, bias)
        y = {last} (b)
    }}"""
    w = np.random.default_rng(0).standard_normal((3, 4))
    original = build(text, w=w, bias=[20, -10, -15, -20])
    other = open_session(build(text, w=weight * w, bias=[20, -10, -15, unlikeliest]))
    evidence = gather(original)
    return validate_run(original, lambda x: run_session(other, x), evidence=evidence)


def test_saturated_probabilities_are_compared_by_their_logarithms():
    same = answers("Softmax", 1)
    assert same.passed
    assert "its logarithm was compared as well" in same.notes[0]
    # Which class is the most probable, and that by far, stays as it is.
    assert not answers("Softmax", 1.01).passed
    assert not answers("Softmax", 1, unlikeliest=-20.1).passed


def test_without_digits_near_its_bounds_a_saturated_output_proves_nothing():
    found = answers("HardSigmoid", 1)
    assert not found.passed
    assert "nothing is proved" in found.notes[0]


def test_probabilities_of_float16_that_are_0_have_a_logarithm():
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float16[N, 3] x) => (float16[N, 3] y) {
        scale = Cast <to = 10> (large)
        a = Mul (x, scale)
        y = Softmax (a)
    }"""
    model = build(text, large=1000)
    session, evidence = open_session(model), gather(model)
    found = validate_run(model, lambda x: run_session(session, x), evidence=evidence, max_error=0.1)
    assert found.passed
    assert "its logarithm was compared as well" in found.notes[-1]
