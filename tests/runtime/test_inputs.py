import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.errors import InputError
from advconv_onnx.runtime.inputs import draw, runnable_samples


def build(inputs, nodes="y = Identity(x)"):
    return ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => (float y) {{ {nodes} }}'
    )


def always(_inputs):
    return True


def test_one_name_has_one_size_and_unnamed_dimensions_are_independent():
    model = build("float[N, 3, H, W] x, float[N, 2, H, ?] z")
    model.graph.inputs[1].shape = ir.Shape(["N", 2, "H", None])
    sizes = set()
    for sample in draw(model, always):
        x, z = sample.inputs["x"].shape, sample.inputs["z"].shape
        assert x[0] == z[0]
        assert x[2] == z[2]
        sizes.add((x[3], z[3]))
    assert any(a != b for a, b in sizes)


def test_batches_above_one_odd_sizes_and_both_signs():
    samples = draw(build("float[N, 3, H, W] x"), always)
    shapes = {sample.inputs["x"].shape for sample in samples}
    assert {shape[0] for shape in shapes} == {1, 2, 3}
    assert any(shape[2] % 2 and shape[3] % 2 and shape[2] != shape[3] for shape in shapes)
    for sample in samples:
        assert sample.inputs["x"].dtype == np.float32
        assert sample.inputs["x"].min() < 0 < sample.inputs["x"].max()
        assert sample.shape == "x=" + "x".join(map(str, sample.inputs["x"].shape))


def test_a_spatial_size_equals_the_channels_behind_the_first_convolution():
    model = build("float[N, 3, H, W] x", "y = Conv <strides = [2, 2]> (x, w)")
    weight = ir.Value(name="w", const_value=ir.tensor(np.zeros((24, 3, 1, 1), np.float32)))
    model.graph.initializers.add(weight)
    model.graph[0].replace_input_with(1, weight)
    assert any(sample.inputs["x"].shape[2:] == (48, 48) for sample in draw(model, always))


def test_only_shapes_that_run_are_kept():
    def multiples_of_32_alone(inputs):
        n, _, h, w = inputs["x"].shape
        return n == 1 and h % 32 == w % 32 == 0

    samples = draw(build("float[N, 3, H, W] x"), multiples_of_32_alone)
    assert len({sample.shape for sample in samples}) == 3
    assert all(multiples_of_32_alone(sample.inputs) for sample in samples)


def test_static_shapes_are_drawn_once_per_distribution():
    samples = draw(build("float[2, 3, 8, 8] x"), always)
    assert {sample.shape for sample in samples} == {"x=2x3x8x8"}
    assert len({sample.inputs["x"].tobytes() for sample in samples}) == len(samples) == 3


def test_states_follow_the_batch_when_nothing_else_runs():
    model = build("float[?, ?] x, float[2, ?, 128] state")
    model.graph.inputs[0].shape = ir.Shape([None, None])
    model.graph.inputs[1].shape = ir.Shape([2, None, 128])

    def runs(inputs):
        return inputs["x"].shape[1] == 576 and inputs["state"].shape[1] == len(inputs["x"])

    assert draw(model, runs)[0].inputs["state"].shape == (2, 1, 128)


def test_integers_are_small_indices_and_scalars_are_tried_in_turn():
    model = build("float[N, 4] x, int64[N] i, int64 rate, bool[N] b")
    samples = draw(model, always)
    assert {int(sample.inputs["rate"]) for sample in samples} == {16000, 1}
    assert all(0 <= sample.inputs["i"].min() <= sample.inputs["i"].max() < 8 for sample in samples)
    assert {sample.inputs["b"].dtype for sample in samples} == {np.dtype(bool)}


@pytest.mark.parametrize("dims", ["N, 32, 48, 3", "N, 3, 32, 48", "N, 32, 48"])
def test_pictures_of_8_bits_have_all_their_range(dims):
    for sample in draw(build(f"uint8[{dims}] x"), always):
        assert sample.inputs["x"].min() < 16
        assert sample.inputs["x"].max() > 240


def test_lines_of_text_run_along_the_rows_of_a_picture_with_its_channels_last():
    x = draw(build("uint8[N, 96, 96, 3] x"), always)[-1].inputs["x"]
    rows, columns = (x.mean(axis=axes).std() for axes in ((0, 2, 3), (0, 1, 3)))
    assert rows > 1.5 * columns


def test_same_seed_same_inputs():
    model = build("float[N, 3, H, W] x")
    one, same, other = (draw(model, always, seed=seed)[0].inputs["x"] for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_given_data_is_used_as_it_is_and_fixes_names():
    model = build("float[N, 3, H, W] x, float[N, 7] z")
    x = np.zeros((5, 3, 4, 6), np.float32)
    for sample in draw(model, always, data={"x": x}):
        assert sample.inputs["x"] is x
        assert sample.inputs["z"].shape == (5, 7)
    z = np.ones((5, 7), np.float32)
    assert len(draw(model, always, data={"x": x, "z": z})) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"q": np.zeros(3)}, "'q', which is no input of the model; its inputs are x"),
        ({"x": np.zeros((1, 3, 8, 8))}, r"float64\[1x3x8x8\], the model wants float32\[Nx3xHxW\]"),
        ({"x": np.zeros((1, 4, 8, 8), np.float32)}, "convert the array"),
        ({"x": np.zeros((3, 8, 8), np.float32)}, "convert the array"),
    ],
)
def test_data_that_does_not_fit_is_refused(data, message):
    with pytest.raises(InputError, match=message):
        draw(build("float[N, 3, H, W] x"), always, data=data)


def test_a_model_that_never_runs_is_an_error_that_names_its_inputs():
    with pytest.raises(InputError, match=r"\(x=Nx3xHxW\); give shapes with --input"):
        draw(build("float[N, 3, H, W] x"), lambda _inputs: False)


def test_unknown_rank_is_an_error():
    with pytest.raises(InputError, match="input 'x' is no numeric tensor of known rank"):
        draw(unranked(), always)


def unranked():
    model = build("float[N] x")
    model.graph.inputs[0].shape = None
    return model


def test_shapes_with_finite_results_are_preferred():
    text = "h = ReduceMin <keepdims = 0> (x)  s = Shape <start = 3> (x)  f = Cast <to = 1> (s)"
    model = build(
        "float[1, 3, H, W] x",
        f"{text}  c = Constant <value = float {{90.0}}> ()"
        "  d = Sub(f, c)  r = Sqrt(d)  y = Add(r, h)",
    )
    assert all(sample.inputs["x"].shape[3] >= 90 for sample in runnable_samples(model))
    nowhere = build("float[1, 3, H, W] x", "n = Abs(x)  m = Neg(n)  y = Sqrt(m)")
    assert len(runnable_samples(nowhere)) == 9
