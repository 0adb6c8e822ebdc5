"""Integer probes: exact weights and inputs, shapes that provoke mistakes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.errors import CheckError
from advconv_onnx.runtime.probe import SHAPES, difference, integer_inputs, integer_twin
from advconv_onnx.runtime.reference import Reference
from tests.parsing import normal, parse

CONV = "y = Conv <dilations = [1, 2]> (x, w, b) z = Mul(y, c)"
W, B, C = normal(6, 4, 2, 3), normal(6), normal(6, 1, 1)


def model_of(nodes: str, *inputs: str, opset: int = 15, **constants: Any) -> ir.Model:
    listed = ", ".join(f"float[{dims}] {name}" for name, dims in zip("xg", inputs, strict=False))
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}]> g ({listed}) => (float[] z) {{ {nodes} }}'
    )
    arrays = {name: np.asarray(c, getattr(c, "dtype", np.float32)) for name, c in constants.items()}
    return parse(text, **arrays)


def arrays_of(model: ir.Model) -> dict[str, np.ndarray]:
    return {name: v.const_value.numpy() for name, v in model.graph.initializers.items()}


def twin_of(model: ir.Model, seed: int = 0) -> ir.Model:
    return integer_twin(model, np.random.default_rng(seed))


def shapes_of(model: ir.Model, keep_shapes: bool = False) -> list[dict[str, tuple[int, ...]]]:
    inputs = integer_inputs(model, np.random.default_rng(0), keep_shapes)
    return [{name: array.shape for name, array in one.items()} for one in inputs]


def test_weights_become_integers_of_both_signs_and_never_zero() -> None:
    model = model_of(CONV, "N, 4, H, W", w=W, b=B, c=C)
    before = ir.to_proto(model).SerializeToString()
    twin = twin_of(model)
    assert ir.to_proto(model).SerializeToString() == before
    for name, array in arrays_of(twin).items():
        assert array.dtype == np.float64
        assert array.shape == arrays_of(model)[name].shape
        assert np.array_equal(array, np.rint(array))
        assert array.all()
    assert arrays_of(twin)["w"].min() < 0 < arrays_of(twin)["w"].max()
    assert len(np.unique(arrays_of(twin)["w"])) > 50
    large = model_of("z = Conv(x, w)", "N, 4, H, W", w=normal(64, 4, 5, 5))
    assert arrays_of(twin_of(large))["w"].all()
    assert not np.array_equal(arrays_of(twin)["w"], arrays_of(twin_of(model, seed=1))["w"])
    assert np.array_equal(arrays_of(twin)["w"], arrays_of(twin_of(model))["w"])


def test_divisors_are_powers_of_two_and_variances_have_exact_roots() -> None:
    model = model_of(
        "y = Div(x, c) z = BatchNormalization(y, s, b, m, v)", "N, 6, H, W",
        c=C, s=B, b=B, m=B, v=abs(B),
    )  # fmt: skip
    twin = twin_of(model)
    arrays = arrays_of(twin)
    assert np.array_equal(2.0 ** np.rint(np.log2(abs(arrays["c"]))), abs(arrays["c"]))
    epsilon = twin.graph.node(1).attributes.get_float("epsilon")
    root = np.sqrt(arrays["v"] + epsilon)
    assert np.array_equal(2.0 ** np.rint(np.log2(root)), root)
    assert len(np.unique(root)) > 1
    assert "epsilon" not in model.graph.node(1).attributes


def test_a_weight_in_two_roles_and_constants_that_are_no_weights_keep_their_meaning() -> None:
    pads, scales = np.zeros(8, np.int64), np.array([1, 1, 2, 2], np.float32)
    model = model_of(
        "a = Pad(x, p) b = Resize(a, , s) d = Div(b, c) z = Add(d, c)", "N, 6, H, W",
        p=pads, s=scales, c=C,
    )  # fmt: skip
    arrays = arrays_of(twin_of(model))
    assert arrays["p"].dtype == np.int64
    assert np.array_equal(arrays["p"], pads)
    assert np.array_equal(arrays["s"], scales)
    assert np.array_equal(2.0 ** np.rint(np.log2(abs(arrays["c"]))), abs(arrays["c"]))


def test_everything_computed_from_a_twin_is_exact() -> None:
    """Sums in another order are equal to the bit: the premise of every probe."""
    model = model_of(CONV, "N, 4, H, W", w=normal(6, 256, 2, 3), b=B, c=C)
    model.graph.inputs[0].shape = ir.Shape(["N", 256, "H", "W"])
    twin = twin_of(model)
    order = np.random.default_rng(1).permutation(256)
    other = twin.clone(deep_copy=True)
    weight = other.graph.initializers["w"]
    weight.const_value = ir.tensor(weight.const_value.numpy()[:, order], name="w")
    for inputs in integer_inputs(twin, np.random.default_rng(2), keep_shapes=False):
        permuted = other.clone(deep_copy=True)
        (want,) = run(twin, inputs["x"])
        (got,) = run(permuted, inputs["x"][:, order])
        assert np.array_equal(want, got)
        assert np.array_equal(want, np.rint(want))


def run(model: ir.Model, x: np.ndarray) -> list[np.ndarray]:
    return list(Reference(model).run({"x": x}).values())


def test_shapes_provoke_mistakes() -> None:
    shapes = [shape["x"] for shape in shapes_of(model_of(CONV, "N, 6, H, W", w=W, b=B, c=C))]
    assert len(shapes) == SHAPES
    assert {shape[0] for shape in shapes} == {1, 2, 3, 6}, "batch equals channels too"
    assert {shape[1] for shape in shapes} == {6}
    assert any(shape[2:] == (6, 6) for shape in shapes), "sides equal to the channels"
    assert any(shape[2:] == (5, 5) for shape in shapes), "as small as the dilated kernel"
    assert all(min(shape[2:]) >= 5 for shape in shapes)
    assert sum(shape[2] != shape[3] for shape in shapes) == 2


def test_equal_dimensions_stay_equal_and_fixed_ones_stay_where_asked() -> None:
    model = model_of("y = Mul(x, g) z = Add(x, y)", "N, 3, H, 7", "N, 3, 1, 1")
    for shape in shapes_of(model):
        assert shape["x"][0] == shape["g"][0]
        assert shape["g"][1:] == (3, 1, 1)
    assert all(shape["x"][3] == 7 for shape in shapes_of(model, keep_shapes=True))
    assert len({shape["x"][3] for shape in shapes_of(model)}) > 1
    assert len({shape["x"][2] for shape in shapes_of(model, keep_shapes=True)}) > 1


@pytest.mark.parametrize(
    ("nodes", "weight", "channels", "rank"),
    [
        ("y = Relu(x) z = Conv <group = 2> (y, w)", normal(4, 3, 1, 1), 6, 4),
        ("y = Relu(x) z = ConvTranspose(y, w)", normal(5, 3, 2), 5, 3),
        ("z = Relu(x)", normal(1), 3, 4),
    ],
)
def test_an_unknown_shape_is_what_the_convolution_behind_it_takes(
    nodes: str, weight: np.ndarray, channels: int, rank: int
) -> None:
    model = model_of(nodes, "1", w=weight)
    model.graph.inputs[0].shape = None
    for shape in shapes_of(model):
        assert len(shape["x"]) == rank
        assert shape["x"][1] == channels


def test_differences_are_measured_in_shape_value_and_infinity() -> None:
    x = {"x": normal(2, 3).astype(np.float64)}
    relu = model_of("z = Relu(x)", "N, 3")
    assert difference(relu, relu.clone(), x) == (0, x["x"].max())
    gap, largest = difference(relu, model_of("z = LeakyRelu <alpha = 0.5> (x)", "N, 3"), x)
    assert gap == pytest.approx(-x["x"].min() / 2)
    assert largest == x["x"].max()
    one = model_of("z = Flatten <axis = 0> (x)", "N, 3")
    assert difference(relu, one, x)[0] == np.inf
    assert difference(relu, model_of("y = Relu(x) z = Log(y)", "N, 3"), x)[0] == np.inf
    assert difference(relu, model_of("z = Sqrt(x)", "N, 3"), x)[0] == np.inf


def test_a_first_model_that_does_not_run_is_no_evidence_and_a_second_one_is_an_error() -> None:
    wide = model_of("z = Add(x, c)", "N, 3", c=normal(4))
    relu = model_of("z = Relu(x)", "N, 3")
    x = {"x": normal(2, 3).astype(np.float64)}
    assert difference(wide, relu, x) is None
    with pytest.raises(CheckError):
        difference(relu, wide, x)


def test_a_second_model_may_need_fewer_inputs() -> None:
    both = model_of("y = Mul(x, g) y2 = Mul(y, n) z = Add(x, y2)", "N, 3", "N, 3", n=np.float32(0))
    x = {"x": normal(2, 3).astype(np.float64), "g": normal(2, 3, seed=1).astype(np.float64)}
    assert difference(both, model_of("z = Identity(x)", "N, 3"), x)[0] == 0


@pytest.mark.parametrize("channels", ["C", "?"])
def test_channels_that_are_not_known_are_what_a_convolution_reads(channels: str) -> None:
    model = parse(
        """<ir_version: 8, opset_import: ["" : 13]> g (float[N, C, H, W] x, float[N, C, H, W] y)
        => (float[] z) { v = Conv(x, w) u = Add(x, y) z = Relu(v) }""",
        w=normal(4, 5, 1, 1),
    )
    for value in model.graph.inputs:
        if channels == "?":
            value.shape = ir.Shape(["N", None, "H", "W"])
    for inputs in integer_inputs(model, np.random.default_rng(0), keep_shapes=False):
        assert inputs["x"].shape[1] == 5
        assert inputs["y"].shape == inputs["x"].shape or channels == "?"


def test_an_input_whose_shape_is_read_takes_no_memory() -> None:
    model = parse(
        """<ir_version: 8, opset_import: ["" : 13]> g (float[4000, 4000, 4000] x) => (int64[] z)
        { z = Shape(x) }"""
    )
    (inputs, *_) = integer_inputs(model, np.random.default_rng(0), keep_shapes=True)
    assert inputs["x"].shape == (4000, 4000, 4000)
    assert not inputs["x"].flags.writeable
