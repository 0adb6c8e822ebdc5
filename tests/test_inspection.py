from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advconv_onnx.errors import InputError
from advconv_onnx.inspection import inspect
from advconv_onnx.records import Costs


def build(signature, body, *, opset=18, functions="", **weights):
    """A model from ONNX text, whose keyword arguments become initializers of that shape."""
    typed = [f"{_type(array)} {name}" for name, array in weights.items()]
    inputs, outputs = signature.split("=>")
    text = (
        f'<ir_version: 8, opset_import: ["": {opset}, "local": 1]> g '
        f"({', '.join([inputs.strip(), *typed])}) => ({outputs}) {{ {body} }} {functions}"
    )
    model = ir.from_onnx_text(text)
    for value in list(model.graph.inputs):
        if value.name in weights:
            value.const_value = ir.tensor(_array(weights[value.name]), name=value.name)
            model.graph.inputs.remove(value)
            model.graph.register_initializer(value)
    return model


def _array(weight):
    return np.ones(weight, np.float32) if isinstance(weight, tuple) else weight


def _type(weight):
    array = _array(weight)
    name = {"float32": "float"}.get(str(array.dtype), str(array.dtype))
    return f"{name}[{','.join(map(str, array.shape))}]" if array.shape else name


def one_layer(*args, **kwargs):
    (layer,) = inspect(build(*args, **kwargs)).layers
    return layer


@pytest.mark.parametrize(
    ("channels", "weight", "attributes", "kind", "kernel", "extent"),
    [
        (4, (8, 4, 3, 3), "", "dense", (3, 3), (3, 3)),
        (4, (8, 4, 3, 1), "kernel_shape=[3,1]", "dense", (3, 1), (3, 1)),
        (4, (8, 4, 1, 1), "", "pointwise", (1, 1), (1, 1)),
        (4, (8, 4, 1, 1), "dilations=[2,2]", "pointwise", (1, 1), (1, 1)),
        (1, (8, 1, 3, 3), "", "dense", (3, 3), (3, 3)),
        (4, (4, 1, 3, 3), "group=4", "depthwise", (3, 3), (3, 3)),
        (4, (12, 1, 3, 3), "group=4", "depthwise", (3, 3), (3, 3)),
        (4, (4, 1, 1, 1), "group=4", "depthwise", (1, 1), (1, 1)),
        (4, (8, 2, 3, 3), "group=2", "grouped", (3, 3), (3, 3)),
        (4, (8, 2, 1, 1), "group=2", "grouped", (1, 1), (1, 1)),
        (4, (8, 4, 3, 3), "dilations=[2,2]", "dilated dense", (3, 3), (5, 5)),
        (4, (4, 1, 3, 3), "group=4, dilations=[1,3]", "dilated depthwise", (3, 3), (3, 7)),
    ],
)
def test_kind_and_kernel(channels, weight, attributes, kind, kernel, extent):
    layer = one_layer(
        f"float[1,{channels},16,16] x => float[1,C,H,W] y",
        f"y = Conv<{attributes}>(x, w)" if attributes else "y = Conv(x, w)",
        w=weight,
    )
    assert (layer.kind, layer.kernel_shape, layer.effective_kernel) == (kind, kernel, extent)
    assert layer.receptive_field == extent


@pytest.mark.parametrize("weight", [(6, 4, 3), (6, 4, 3, 5), (6, 4, 3, 5, 1)])
def test_defaults_in_any_number_of_dimensions(weight):
    ones = (1,) * (len(weight) - 2)
    sizes = (9, 8, 7)[: len(ones)]
    layer = one_layer(
        f"float[2,4,{','.join(map(str, sizes))}] x => float[] y",
        'y = Conv<auto_pad="SAME_UPPER">(x, w, b)',
        w=weight,
        b=(6,),
    )
    assert layer.kernel_shape == weight[2:]
    assert (layer.strides, layer.dilations, layer.group) == (ones, ones, 1)
    assert (layer.input_shape, layer.output_shape) == ((2, 4, *sizes), (2, 6, *sizes))
    positions = 2 * int(np.prod(sizes))
    weights = int(np.prod(weight))
    assert layer.costs == Costs(
        parameters=weights + 6,
        macs=weights * positions,
        bytes=4 * (4 * positions + weights + 6 + 6 * positions),
    )


def test_transposed_convolution():
    layer = one_layer(
        "float[1,4,5,5] x => float[] y",
        "y = ConvTranspose<strides=[2,2], group=2>(x, w, b)",
        w=(4, 3, 2, 2),
        b=(6,),
    )
    assert (layer.kind, layer.strides, layer.group) == ("transposed", (2, 2), 2)
    assert layer.output_shape == (1, 6, 10, 10)
    assert (layer.costs.parameters, layer.costs.macs) == (48 + 6, 48 * 25)
    assert layer.receptive_field == (1, 1)


def test_quantized_convolutions_count_their_bytes():
    shapes = "uint8[1,2,4,4] x => int32[1,3,4,4] y, uint8[1,3,4,4] z"
    body = """
        y = ConvInteger(x, w)
        z = QLinearConv(x, s, zero, w, s, zero, s, zero, b)
    """
    result = inspect(
        build(
            shapes,
            body,
            w=np.ones((3, 2, 1, 1), np.uint8),
            b=np.ones(3, np.int32),
            s=np.float32(0.5) * np.ones((), np.float32),
            zero=np.zeros((), np.uint8),
        )
    )
    integer, linear = result.layers
    assert integer.costs == Costs(parameters=6, macs=96, bytes=32 + 6 + 4 * 48)
    assert linear.costs.parameters == 9
    assert linear.costs.bytes == 32 + 9 + 48
    assert result.parameters == 9  # the weight is shared


@pytest.mark.parametrize(
    ("opset", "body", "nodes"),
    [
        (18, 'u = Resize<mode="nearest">(x, , scales) y = Conv(u, w)', ("u", "y")),
        (18, 'u = Resize<mode="linear">(x, , , sizes) y = Conv(u, w)', ("u", "y")),
        (18, "u = Resize(x, , scales) p = Pad(u, pads) y = Conv(p, w)", ("u", "p", "y")),
        (18, "u = Resize<axes=[2,3]>(x, , two) y = Conv(u, w)", ("u", "y")),
        (18, "u = Resize<axes=[-2,-1]>(x, , two) y = Conv(u, w)", ("u", "y")),
        (10, "u = Resize(x, scales) y = Conv(u, w)", ("u", "y")),
        (9, "u = Upsample(x, scales) y = Conv(u, w)", ("u", "y")),
        (7, "u = Upsample<scales=[1.0,1.0,2.0,2.0]>(x) y = Conv(u, w)", ("u", "y")),
        (18, "u = Resize(x, , half) y = Conv(u, w)", ("y",)),
        (18, "u = Resize(x, , mixed) y = Conv(u, w)", ("y",)),
        (18, "u = Resize(x, , ones) y = Conv(u, w)", ("y",)),
        (18, "u = Resize(x, , scales) y = Conv(u, w) v = Relu(u)", ("y",)),
    ],
)
def test_upsampling_belongs_to_the_convolution_it_alone_feeds(opset, body, nodes):
    layer = one_layer(
        "float[1,4,8,8] x => float[] y",
        body,
        opset=opset,
        w=(6, 4, 3, 3),
        scales=np.array([1, 1, 2, 2], np.float32),
        two=np.array([2, 2], np.float32),
        half=np.array([1, 1, 0.5, 0.5], np.float32),
        mixed=np.array([1, 1, 2, 0.5], np.float32),
        ones=np.ones(4, np.float32),
        sizes=np.array([1, 4, 16, 16], np.int64),
        pads=np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
    )
    assert layer.nodes == nodes
    assert layer.kind == ("upsample+convolution" if len(nodes) > 1 else "dense")
    if len(nodes) > 1:
        assert layer.input_shape == (1, 4, 8, 8)
        assert layer.costs.macs == 6 * 4 * 9 * layer.output_shape[2] ** 2


@pytest.mark.parametrize(
    ("signature", "body", "kind"),
    [
        ("x => float[] y, float[] u", "u = Resize(x, , scales) y = Conv(u, w)", "dense"),
        ("x => float[] y", "u = Resize(x, , scales) y = ConvTranspose(u, w)", "transposed"),
        (
            "x, bool flag => float[] y",
            """
            u = Resize(x, , scales)
            y = If (flag) <
                then_branch = t () => (float[] a) { a = Conv(u, w) },
                else_branch = e () => (float[] b) { b = Identity(x) }>
            """,
            "dense",
        ),
    ],
)
def test_upsampling_used_otherwise_stays_apart(signature, body, kind):
    layer = one_layer(
        f"float[1,4,8,8] {signature}",
        body,
        w=(4, 4, 3, 3),
        scales=np.array([1, 1, 2, 2], np.float32),
    )
    assert (layer.kind, len(layer.nodes)) == (kind, 1)


HARDSWISH = "t = Add(n, three) c = Clip(t, zero, six) m = Mul(n, c) a = Div(m, six)"


@pytest.mark.parametrize(
    ("body", "paired"),
    [
        ("y = Conv(d, p)", True),
        (f"n = BatchNormalization(d, s, s, s, s) {HARDSWISH} y = Conv(a, p)", True),
        ("e = Relu(d) y = Conv(e, p) z = Conv(e, p)", False),
        ("e = Add(d, x) y = Conv(e, p)", False),
        ("q = GlobalAveragePool(d) e = Mul(d, q) y = Conv(e, p)", False),
        ("e = Relu(d) y = Conv(e, k)", False),
        ("e = Conv<group=2>(d, g) y = Conv(e, p)", False),
        ("c = Conv<group=4>(x, w) e = Add(c, d) y = Conv(e, p)", False),
    ],
)
def test_separable_pairs(body, paired):
    result = inspect(
        build(
            "float[1,4,8,8] x => float[] y",
            f"d = Conv<group=4>(x, w) {body}",
            w=(4, 1, 1, 1),
            p=(8, 4, 1, 1),
            k=(8, 4, 3, 3),
            g=(4, 2, 1, 1),
            s=(4,),
            three=(1,),
            zero=(),
            six=(),
        )
    )
    assert result.separable == (((0, 1),) if paired else ())
    assert [result.layers[0].kind, len(result.layers[0].nodes)] == ["depthwise", 1]
    if paired:
        assert (result.parameters, result.macs) == (4 + 32, (4 + 32) * 64)


def test_depthwise_output_that_the_model_returns_is_no_pair():
    result = inspect(
        build(
            "float[1,4,8] x => float[] y, float[] d",
            "d = Conv<group=4>(x, w) y = Conv(d, p)",
            w=(4, 1, 3),
            p=(8, 4, 1),
        )
    )
    assert result.separable == ()


def test_weights_shared_by_layers_count_once():
    result = inspect(
        build(
            "float[1,4,8] x => float[] y",
            "a = Conv(x, w, b) y = Conv(a, w, b)",
            w=(4, 4, 1),
            b=(4,),
        )
    )
    assert [layer.costs.parameters for layer in result.layers] == [20, 20]
    assert (result.parameters, result.macs) == (20, 2 * 16 * 8)


def test_bodies_of_if_with_weights_from_outside_and_inside():
    result = inspect(
        build(
            "float[1,2,8] x, bool flag => float[] y",
            """
            h = Conv(x, w)
            [choice] y = If (flag) <
                then_branch = t () => (float[] a) { [deep] a = Conv(h, w) },
                else_branch = e () => (float[] b) {
                    k = Constant<value = float[2,2,1] {1, 2, 3, 4}>()
                    b = Conv(h, k)
                }>
            [last] z = Conv(y, w)
            """,
            w=(2, 2, 3),
        )
    )
    assert [layer.graph for layer in result.layers] == [
        *("", ""),
        "choice/then_branch",
        "choice/else_branch",
    ]
    first, last, then, other = result.layers
    assert (then.name, then.kind, other.kind) == ("deep", "dense", "pointwise")
    assert (then.input_shape, then.output_shape) == ((1, 2, 6), (1, 2, 4))
    assert [layer.costs.parameters for layer in result.layers] == [12, 12, 12, 4]
    assert result.parameters == 16
    fields = [layer.receptive_field for layer in (first, last, then, other)]
    assert fields == [(3,), (7,), (5,), (3,)]


def test_body_of_a_loop():
    result = inspect(
        build(
            "float[1,2,8] x, int64 trips, bool go => float[] y",
            """
            [again] p, q = Loop (trips, go, x, x) <
                body = b (int64 i, bool c, float[1,2,8] s, float[1,2,8] t)
                    => (bool d, float[1,2,8] u, float[1,2,8] r) {
                    d = Identity(c)
                    u = Relu(x)
                    r = Conv<pads=[1,1]>(s, w)
                }>
            y = Conv(q, w)
            """,
            w=(2, 2, 3),
        )
    )
    after, inside = result.layers
    assert (inside.graph, inside.costs.macs) == ("again/body", 12 * 8)
    # How often a window is applied is not known.
    assert inside.receptive_field is after.receptive_field is None


FUNCTION = """
<domain: "local", opset_import: ["": 18]>
block (x) => (y) {
    k = Constant<value = float[2,2,1] {1, 2, 3, 4}>()
    [conv] y = Conv(x, k)
}
"""


def test_functions_are_counted_per_call_and_their_weights_once():
    result = inspect(
        build(
            "float[1,2,8] x => float[] y",
            "p = MaxPool<kernel_shape=[2], strides=[2]>(x) a = local.block(p) y = local.block(a)",
            functions=FUNCTION,
        )
    )
    assert [layer.graph for layer in result.layers] == ["local::block"] * 2
    assert [layer.output_shape for layer in result.layers] == [(1, 2, 4)] * 2
    assert [layer.receptive_field for layer in result.layers] == [(2,)] * 2
    assert (result.parameters, result.macs) == (4, 2 * 16)


def test_function_of_another_opset_still_has_its_row():
    result = inspect(
        build("float[1,2,8] x => float[] y", "y = local.block(x)", opset=17, functions=FUNCTION)
    )
    (layer,) = result.layers
    assert (layer.graph, layer.kind, layer.input_shape) == ("local::block", "pointwise", None)
    assert (layer.costs.parameters, result.macs) == (4, None)


def test_recursive_functions_are_an_input_error():
    function = FUNCTION.replace("y = Conv(x, k)", "y = local.block(x)").replace(
        '[""', '["local": 1, ""'
    )
    model = build("float[1,2,8] x => float[] y", "y = local.block(x)", functions=function)
    with pytest.raises(InputError, match="functions are recursive") as caught:
        inspect(model)
    assert "\n" not in str(caught.value)


def test_weights_that_are_computed_are_not_stored():
    layer = one_layer("float[1,2,8] x, float[3,2,3] w => float[] y", "v = Abs(w) y = Conv(x, v)")
    assert (layer.costs.parameters, layer.costs.macs) == (0, 18 * 6)
    derived = one_layer(
        "float[1,2,8] x => float[] y",
        "v = DequantizeLinear(w, s) y = Conv(x, v)",
        w=np.ones((3, 2, 3), np.int8),
        s=(),
    )
    assert derived.costs.parameters == 18


def test_unknown_shapes_leave_a_row():
    result = inspect(build("float[] x, float[] w => float[] y", "y = Conv<strides=[2,2]>(x, w)"))
    (layer,) = result.layers
    assert (layer.kind, layer.strides) == ("dense", (2, 2))
    assert layer.kernel_shape is layer.effective_kernel is layer.receptive_field is None
    assert layer.input_shape is layer.output_shape is result.macs is None
    bare = one_layer("float[] x, float[] w => float[] y", "y = Conv(x, w)")
    assert (bare.strides, bare.dilations) == ((), ())
    ranked = one_layer("float[1,2,8,8] x, float[] w => float[] y", "y = Conv(x, w)")
    assert (ranked.strides, ranked.dilations) == ((1, 1), (1, 1))


def test_names_of_sizes_are_kept():
    layer = one_layer("float[N,4,H,W] x => float[] y", "y = Conv(x, w)", w=(6, 4, 3, 3))
    assert layer.input_shape == ("N", 4, "H", "W")
    assert layer.output_shape == ("N", 6, None, None)
    assert layer.costs == Costs(parameters=216, macs=None, bytes=None)


def test_shapes_computed_by_the_model_are_followed(caplog):
    layer = one_layer(
        "float[1,4,6,6] x => float[] y",
        """
        s = Shape(x)
        c = Slice(s, zero, two)
        l = Constant<value_ints=[-1]>()
        t = Concat<axis=0>(c, l)
        r = Reshape(x, t)
        none = ConstantOfShape<value = int64[1] {0}>(two)
        four = Constant<value_ints=[0,0,0,1]>()
        p = Concat<axis=0>(none, four)
        q = Pad(r, p)
        y = Conv(q, w)
        left, right = Split<axis=0, num_outputs=2>(both)
        """,
        both=np.array([1, 2], np.int64),
        w=(3, 4, 1),
        zero=np.array([0], np.int64),
        two=np.array([2], np.int64),
    )
    assert layer.input_shape == (1, 4, 37)
    assert layer.costs.macs == 3 * 4 * 37
    assert not caplog.records


def test_rows_of_a_branch_never_taken_remain():
    result = inspect(
        build(
            "float[1,2,8] x => float[] y",
            """
            flag = Constant<value = bool {1}>()
            [choice] y = If (flag) <
                then_branch = t () => (float[] a) { [taken] a = Conv(x, w) },
                else_branch = e () => (float[] b) { [left] b = Conv(x, w) }>
            """,
            w=(2, 2, 3),
        )
    )
    names = {(layer.name, layer.graph) for layer in result.layers}
    assert names == {("taken", "choice/then_branch"), ("left", "choice/else_branch")}
    assert result.parameters == 12


def test_the_model_stays_as_it_is():
    model = build(
        "float[1,2,8,8] x => float[] y",
        "s = Shape(x) r = Reshape(x, s) y = local.block(r)",
        functions=FUNCTION,
    )
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    inspect(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_model_without_convolutions():
    result = inspect(build("float[1,2] x => float[] y", "y = Relu(x)"))
    assert (result.layers, result.parameters, result.macs) == ((), 0, 0)


# Receptive fields, against impulses: which inputs change which outputs.

LENGTH = 160
SCALES = {name: np.array([1, 1, s], np.float32) for name, s in (("x2", 2), ("x3", 3), ("x1h", 1.5))}
STEPS = {
    "conv3": "{o} = Conv({i}, k3)",
    "conv2": "{o} = Conv({i}, k2)",
    "strided": "{o} = Conv<strides=[2]>({i}, k3)",
    "dilated": "{o} = Conv<dilations=[3]>({i}, k3)",
    "maxpool": "{o} = MaxPool<kernel_shape=[2], strides=[2]>({i})",
    "avgpool": "{o} = AveragePool<kernel_shape=[3]>({i})",
    "transposed": "{o} = ConvTranspose<strides=[2]>({i}, k3)",
    "transposed2": "{o} = ConvTranspose<strides=[2]>({i}, k2)",
    "nearest2": '{o} = Resize<nearest_mode="floor", '
    'coordinate_transformation_mode="asymmetric">({i}, , x2)',
    "nearest3": '{o} = Resize<nearest_mode="floor", '
    'coordinate_transformation_mode="asymmetric">({i}, , x3)',
    "nearest3/2": '{o} = Resize<nearest_mode="floor", '
    'coordinate_transformation_mode="asymmetric">({i}, , x1h)',
    "linear2": '{o} = Resize<mode="linear">({i}, , x2)',
    "pad": "{o} = Pad({i}, one)",
    "residual": "{o}l = Conv<pads=[1,1]>({i}, k3) {o} = Add({o}l, {i})",
    "concat": "{o}l = Conv<pads=[1,1]>({i}, k3) {o}r = Conv<pads=[2,2]>({i}, k5) "
    "{o}c = Concat<axis=1>({o}l, {o}r) {o} = Conv({o}c, mix)",
    "norm": "{o}n = BatchNormalization({i}, s, s, s, s) {o} = Sigmoid({o}n)",
}


def impulses_and_prediction(steps):
    """Extent of the inputs that change each output, its maximum, and what ``inspect`` says."""
    names = [f"v{index}" for index in range(len(steps) + 1)]
    body = " ".join(
        STEPS[step].format(i=i, o=o)
        for step, i, o in zip(steps, names[:-1], names[1:], strict=True)
    )
    model = build(
        f"float[N,1,{LENGTH}] v0 => float[A,B,C] y",
        f"{body} y = Conv({names[-1]}, k1)",
        **{f"k{size}": np.full((1, 1, size), 0.5, np.float32) for size in (1, 2, 3, 5)},
        mix=(1, 2, 1),
        s=np.ones(1, np.float32),
        one=np.array([0, 0, 1, 0, 0, 1], np.int64),
        **SCALES,
    )
    predicted = inspect(model).layers[-1].receptive_field
    options = ort.SessionOptions()
    options.log_severity_level = 3  # initializers of steps not taken
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    x = np.concatenate([np.zeros((1, LENGTH)), np.eye(LENGTH)]).astype(np.float32)[:, None]
    y = session.run(None, {"v0": x})[0][:, 0].astype(np.float64)
    touched = y[1:] != y[:1]
    touched = touched[:, touched.any(0)]
    first, last = touched.argmax(0), LENGTH - 1 - touched[::-1].argmax(0)
    return (last - first + 1).max(), predicted[0]


@pytest.mark.parametrize(
    "steps",
    [
        *[[step] for step in STEPS],
        [*["conv3", "strided", "conv3", "maxpool"] * 2, "dilated"],
        ["strided", "residual", "maxpool", "concat", "norm", "conv2"],
        ["nearest2", "conv3", "conv2", "nearest3", "conv3"],
        ["strided", "conv3", "strided", "transposed2", "conv3", "nearest2", "conv2"],
        ["maxpool", "transposed", "conv3", "transposed", "conv3"],
        ["strided", "linear2", "conv3", "linear2"],
        ["nearest3/2", "conv3", "conv2"],
    ],
    ids="-".join,
)
def test_receptive_field_is_what_impulses_reach(steps):
    measured, predicted = impulses_and_prediction(steps)
    assert measured == predicted


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(sorted(set(STEPS) - {"nearest3", "nearest3/2"})), max_size=5))
def test_receptive_field_of_any_chain(steps):
    measured, predicted = impulses_and_prediction(steps)
    assert measured <= predicted
    grows = [step.startswith(("nearest", "linear", "transposed")) for step in steps]
    shrinks = [step in ("strided", "maxpool") for step in steps]
    if not any(any(grows[:index]) for index, shrunk in enumerate(shrinks) if shrunk):
        assert measured == predicted


@pytest.mark.parametrize(
    ("signature", "body", "expected"),
    [
        ("float[1,2,9,9] x", "g = GlobalAveragePool(x) y = Conv(g, w)", None),
        ("float[1,2,9,9] x", "g = GlobalAveragePool(x) m = Mul(x, g) y = Conv(m, w)", None),
        ("float[1,2,9,9] x", "g = GlobalAveragePool(x) m = Mul(w, g) y = Conv(x, m)", None),
        ("float[1,2,9,9] x", "s = Softmax(x) y = Conv(s, w)", None),
        ("float[1,2,9,9] x", "s = Softmax<axis=1>(x) y = Conv(s, w)", None),
        ("float[1,2,9,9] x", "s = Slice(x, one, six, two) y = Conv(s, w)", None),
        ("float[1,4,9,9] x", "s = Slice(x, one, three, one) y = Conv(s, w)", (3, 3)),
        ("float[1,4,9,9] x", "s, r = Split<axis=1, num_outputs=2>(x) y = Conv(r, w)", (3, 3)),
        ("float[1,2,9,9] x", "s = Concat<axis=2>(x, x) y = Conv(s, w)", None),
        ("float[1,9,9,2] x", "s = Transpose<perm=[0,3,1,2]>(x) y = Conv(s, w)", (3, 3)),
        ("float[1,9,9,2] x", "s = Reshape(x, shape) y = Conv(s, w)", None),
        ("float[2,9,9] x", "s = Unsqueeze(x, zero) y = Conv(s, w)", (3, 3)),
        ("float[2,9,9] x", "s = Unsqueeze(x, two) y = Conv(s, v)", None),
        ("float[1,1,2,9,9] x", "s = Squeeze(x, zero) y = Conv(s, w)", (3, 3)),
        ("float[1,2,9,9] x", 's = Pad<mode="wrap">(x, pads) y = Conv(s, w)', None),
        ("float[1,8,9,9] x", "s = DepthToSpace<blocksize=2>(x) y = Conv(s, t)", (2, 2)),
        ("float[1,2,10,10] x", "s = SpaceToDepth<blocksize=2>(x) y = Conv(s, u)", (6, 6)),
        ("float[1,2,9,9] x", "a = Mul(half, x) y = Conv(a, w)", (3, 3)),
        ("float[1,2,9,9] x", "s = Slice(x, starts, ends) y = Conv(s, w)", None),
        (
            "float[1,2,9,9] x",
            "s = Slice(x, one, six, two) p = MaxPool<kernel_shape=[5,1]>(x) a = Add(s, p) "
            "y = Conv(a, w)",
            None,
        ),
        ("float[1,2,H,W] x", "n = Size(x) c = Cast<to=1>(n) a = Div(x, c) y = Conv(a, w)", (3, 3)),
        ("float[1,2,9,9] x", "a = local.Relu(x) y = Conv(a, w)", None),
        (
            "float[1,2,9,9] x",
            'a = Resize<mode="linear", antialias=1>(x, , twice) y = Conv(a, w)',
            None,
        ),
        ("float[1,2,9,9] x", "a = Clip(half) y = Conv(w, w)", None),
    ],
)
def test_receptive_field_follows_only_what_is_local(signature, body, expected):
    model = build(
        f"{signature} => float[] y",
        body,
        opset=19,
        w=(2, 2, 3, 3),
        v=(2, 9, 1, 3),
        u=(2, 8, 3, 3),
        t=(2, 2, 2, 2),
        half=(1, 2, 1, 1),
        starts=np.array([0, 0, 1, 1], np.int64),
        ends=np.array([1, 2, 9, 9], np.int64),
        twice=np.array([1, 1, 2, 2], np.float32),
        zero=np.array([0], np.int64),
        one=np.array([1], np.int64),
        two=np.array([2], np.int64),
        three=np.array([3], np.int64),
        six=np.array([6], np.int64),
        shape=np.array([1, 2, 9, 9], np.int64),
        pads=np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
    )
    assert inspect(model).layers[-1].receptive_field == expected


@pytest.mark.parametrize(
    ("name", "parameters", "macs", "field"),
    [
        # torchvision's parameter counts less those of batch normalization and dense layers:
        # 25,557,032 - 53,120 - 2,049,000 and 143,667,240 - 123,642,856. Fields added up by hand,
        # ResNet's with its strides in the 3x3 convolutions.
        ("resnet50", 23_454_912, 4_087_136_256, 427),
        ("vgg19", 20_024_384, 19_508_428_800, 252),
    ],
)
def test_published_figures_of_known_networks(name, parameters, macs, field):
    folder = Path(onnx.__file__).parent / "backend/test/data/light"
    result = inspect(ir.load(folder / f"light_{name}.onnx"))
    assert (result.parameters, result.macs) == (parameters, macs)
    assert result.layers[-1].receptive_field == (field, field)
