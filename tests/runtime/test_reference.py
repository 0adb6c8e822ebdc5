import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from advconv_onnx.errors import CheckError
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.reference import Reference
from advconv_onnx.runtime.session import open_session

RNG = np.random.default_rng(0)


def build(body, opset=17, **weights):
    """A model from ONNX text; arrays given by name become its initializers."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {body}')
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def assert_like_ort(model, **inputs):
    got = Reference(model).run(inputs)
    want = run_session(open_session(model, graph_optimizations=False), inputs)
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert got[name].dtype == (np.float64 if value.dtype.kind == "f" else value.dtype)
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5)


CASES = {
    "conv_same_upper": "Conv <auto_pad = 'SAME_UPPER', strides = [2, 3]> (x, w)",
    "conv_same_lower": "Conv <auto_pad = 'SAME_LOWER', strides = [2, 3]> (x, w)",
    "conv_valid": "Conv <auto_pad = 'VALID', dilations = [1, 2]> (x, w)",
    "conv_asymmetric": "Conv <pads = [0, 1, 2, 0]> (x, w)",
    "transposed_same_upper": "ConvTranspose <auto_pad = 'SAME_UPPER', strides = [2, 3]> (x, t)",
    "transposed_same_lower": "ConvTranspose <auto_pad = 'SAME_LOWER', strides = [2, 3]> (x, t)",
    "transposed_output_shape": (
        "ConvTranspose <output_shape = [13, 26], strides = [2, 3], output_padding = [1, 0]> (x, t)"
    ),
    "transposed_asymmetric": "ConvTranspose <pads = [0, 1, 2, 0], strides = [2, 2]> (x, t)",
    "max_pool_ceil": "MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (x)",
    "max_pool_same": (
        "MaxPool <kernel_shape = [3, 2], strides = [2, 2], auto_pad = 'SAME_UPPER'> (x)"
    ),
    "average_pool": "AveragePool <kernel_shape = [3, 3], pads = [1, 0, 1, 2]> (x)",
    "average_pool_with_pad": (
        "AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (x)"
    ),
    "batch_normalization": "BatchNormalization <epsilon = 0.1> (x, s, b, m, v)",
}


@pytest.mark.parametrize("operator", CASES.values(), ids=CASES.keys())
def test_operators_equal_onnxruntime(operator):
    model = build(
        f"g (float[2, 4, 7, 9] x) => (float y) {{ y = {operator.replace(chr(39), chr(34))} }}",
        w=floats(6, 4, 3, 3),
        t=floats(4, 5, 3, 3),
        s=floats(4),
        b=floats(4),
        m=floats(4),
        v=abs(floats(4)),
    )
    assert_like_ort(model, x=floats(2, 4, 7, 9))


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
def test_negative_pads_take_pixels_away(mode):
    model = build(
        f"""g (float[2, 4, 7, 9] x) => (float y)
        <int64[4] p = {{-1, 2, 3, -4}}, float v = {{5}}, int64[2] a = {{-1, 2}}> {{
            y = Pad <mode = "{mode}"> (x, p, v, a)
        }}""",
        opset=18,
    )
    assert_like_ort(model, x=floats(2, 4, 7, 9))


@pytest.mark.parametrize(
    ("opset", "split"),
    [
        (11, "a, b, c = Split <axis = -1, split = [4, 3, 2]> (x)"),
        (11, "a, b, c = Split <axis = 3> (x)"),
        (13, "a, b, c = Split <axis = 1> (x, s)"),
        (18, "a, b = Split <axis = 2, num_outputs = 2> (x)"),
    ],
)
def test_split(opset, split):
    outputs = ", ".join(f"float {name}" for name in split.split(" = ")[0].split(", "))
    model = build(
        f"g (float[2, 4, 7, 9] x) => ({outputs}) <int64[3] s = {{1, 2, 1}}> {{ {split} }}",
        opset=opset,
    )
    assert_like_ort(model, x=floats(2, 4, 7, 9))


def test_a_split_whose_sizes_do_not_add_up_fails():
    model = build(
        "g (float[2, N] x) => (float a, float b) <int64[2] s = {1, 2}> "
        "{ a, b = Split <axis = 1> (x, s) }"
    )
    with pytest.raises(CheckError, match="not all of 4"):
        Reference(model).run({"x": floats(2, 4)})


def test_batch_normalization_before_opset_14_uses_the_stored_statistics():
    weights = {"s": floats(3), "b": floats(3), "m": floats(3), "v": abs(floats(3))}
    body = "g (float[2, 3, 4, 5] x) => (float y) { y = BatchNormalization(x, s, b, m, v) }"
    assert_like_ort(build(body, 9, **weights), x=floats(2, 3, 4, 5))


@pytest.mark.parametrize(("opset", "mode"), [(9, ""), (17, "<training_mode = 1>")])
def test_batch_normalization_in_training_uses_the_batch(opset, mode):
    weights = {"s": floats(3), "b": floats(3), "m": floats(3), "v": abs(floats(3))}
    x = floats(4, 3, 5, 5)
    model = build(
        "g (float[4, 3, 5, 5] x) => (float y, float p, float q)"
        f"{{ y, p, q = BatchNormalization {mode} (x, s, b, m, v) }}",
        opset,
        **weights,
    )
    want = torch.nn.functional.batch_norm(
        *(torch.from_numpy(a.astype(float)) for a in (x, weights["m"], weights["v"])),
        *(torch.from_numpy(weights[k].astype(float)) for k in "sb"),
        training=True,
    )
    np.testing.assert_allclose(Reference(model).run({"x": x})["y"], want, atol=1e-12)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_of_opset_10(mode):
    body = f'g (float[1, 2, 3, 4] x) => (float y) {{ y = Resize <mode = "{mode}"> (x, s) }}'
    model = build(body, 10, s=np.float32([1, 1, 2, 2]))
    assert_like_ort(model, x=floats(1, 2, 3, 4))


@pytest.mark.parametrize("attributes", ["", "<axis = 2>", "<axis = 0>", "<axis = -1>"])
@pytest.mark.parametrize("opset", [9, 11, 12, 13, 17])
@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
def test_softmax_before_opset_13_runs_over_all_axes_behind(operator, opset, attributes):
    if opset == 9 and "-" in attributes:
        attributes = "<axis = 3>"
    body = f"g (float[2, 3, 4, 5] x) => (float y) {{ y = {operator} {attributes} (x) }}"
    assert_like_ort(build(body, opset), x=floats(2, 3, 4, 5) * 9)


def test_gather_elements_with_fewer_indices_than_data():
    body = "g (float[3, 4] x, int64[2, 4] i) => (float y) { y = GatherElements <axis = 1> (x, i) }"
    assert_like_ort(build(body), x=floats(3, 4), i=RNG.integers(-4, 4, (2, 4)))


def test_everything_stays_in_float64():
    # The sum of 2**24 and 1 is lost in float32, wherever it were computed.
    model = build(
        "g (float[1] x, bool c) => (float[1] y) {"
        "  a = Cast <to = 1> (x)  one = Constant <value = float[1] {1.0}> ()"
        "  b = Add(a, one)"
        "  d = If (c) <then_branch = t () => (float[1] e) { f = Cast <to = 1> (b)"
        "    e = Identity(f) }, else_branch = u () => (float[1] h) { h = Identity(a) }>"
        "  y = Sub(d, a) }"
    )
    result = Reference(model).run({"x": np.float32([2**24]), "c": np.array(True)})
    assert result["y"].tolist() == [1.0]


def test_local_functions_use_the_same_kernels():
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17, "local" : 1]> '
        "g (float[2, 3] x) => (float[2, 3] y) { y = local.twice(x) } "
        '<domain: "local", opset_import: ["" : 17]> '
        "twice (x) => (y) { h = Cast <to = 1> (x)  y = Add(h, h) }"
    )
    result = Reference(model).run({"x": np.full((2, 3), 0.1)})["y"]
    assert (result == 0.2).all()


def test_inner_tensors_are_returned():
    model = build("g (float[2] x) => (float[2] y) { h = Neg(x)  y = Exp(h) }")
    assert Reference(model).run({"x": np.float32([1, 2])}, ["h"])["h"].tolist() == [-1, -2]


def test_the_model_stays_as_it_is():
    model = build("g (float[2] x) => (float[2] y) { y = Add(x, w) }", w=floats(2))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    Reference(model).run({"x": floats(2)})
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("body", "operator"),
    [
        ("g (float[2] x) => (float[2] y) { y = com.microsoft.FastGelu(x) }", "FastGelu"),
        (
            "g (float[1, 1, 2] x, float[1, 8, 2] w, float[1, 8, 2] r) => (float y)"
            " { y = LSTM <hidden_size = 2, clip = 0.1> (x, w, r) }",
            "LSTM",
        ),
    ],
)
def test_an_operator_without_reference_is_named(body, operator):
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> {body}'
    )
    with pytest.raises(CheckError, match=f"operator .*{operator}.* has no float64 reference"):
        Reference(ir.from_proto(proto))


def test_an_operator_that_narrows_is_refused():
    model = build(
        "g (float[1, 2, 3] x) => (float y) { y = AffineGrid(x, s) }",
        20,
        s=np.int64([1, 1, 2, 2]),
    )
    with pytest.raises(CheckError, match=r"AffineGrid.*narrower"):
        Reference(model).run({"x": floats(1, 2, 3)})


def test_a_failing_operator_is_named():
    model = build("g (float[N] x) => (float y) { y = Reshape(x, s) }", s=np.int64([2, 2]))
    with pytest.raises(CheckError, match=r"operator Reshape .*fails in the float64 reference"):
        Reference(model).run({"x": floats(3)})


def test_aligned_corners_are_those_of_the_floored_size():
    body = """g (float[1, 2, 9, 5] x) => (float y) {
        y = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (x, , s) }"""
    model = build(body, s=np.array([1, 1, 2.5, 1.5], np.float32))
    x = floats(1, 2, 9, 5)
    want = torch.nn.functional.interpolate(
        torch.from_numpy(x).double(), scale_factor=(2.5, 1.5), mode="bilinear", align_corners=True
    )
    np.testing.assert_allclose(Reference(model).run({"x": x})["y"], want, rtol=1e-12, atol=1e-12)
