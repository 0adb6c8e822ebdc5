"""Pictures in, classes out: to the bit what the model made of pixels prepared outside."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from advconv_onnx import catalog
from advconv_onnx import model as files
from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.exporters import self_contained
from advconv_onnx.exporters.self_contained import export
from advconv_onnx.optimizer.transaction import fuse
from advconv_onnx.preprocessing import Preprocessing
from advconv_onnx.runner.pictures import normalize
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session
from samples.fetch_models import Unavailable, model_path
from tests.parsing import normal, parse

# Small dyadic numbers: with whole weights every sum is exact in float32, whatever its order.
EXACT = Preprocessing(channels="BGR", scale=0.5, mean=(3.0, 40.5, 61.25), std=(0.5, 2.0, 4.0))

IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

PADDED = "y = Conv <pads = [1, 1, 1, 1]> (x, w)"
TO_NCHW = "t = Transpose <perm = [0, 3, 1, 2]> (x)"


def whole(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(-4, 5, shape).astype(np.float32)


WEIGHTS = {
    "w": whole(4, 3, 3, 3),
    "v": whole(5, 3, 1, 1),
    "same": whole(3, 3, 3, 3),
    "depthwise": whole(6, 1, 3, 3),
    "bias": whole(4),
    "border": np.array([0, 0, 1, 2, 0, 0, 2, 1]),
    "one": np.ones(3, np.float32),
    "shift": whole(3),
    "steps": np.array(0.5, np.float32),
    "bytes": np.random.default_rng(2).integers(-4, 5, (4, 3, 3, 3)).astype(np.int8),
}


def write(
    path: Path,
    nodes: str,
    x: str = "float[N, 3, H, W] x",
    y: str = "float[N, C, P, Q] y",
    opset: int = 17,
) -> Path:
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({x}) => ({y}) {{ {nodes} }}'
    used = {name: array for name, array in WEIGHTS.items() if name in nodes}
    files.save(parse(text, **used), path)
    return path


def pictures(height: int = 9, width: int = 7) -> np.ndarray:
    """Noise, black, white, and squares of both that reach the borders."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (height, width, 3))
    squares = 255 * rng.integers(0, 2, (height, width, 3))
    both = [noise, np.zeros_like(noise), np.full_like(noise, 255), squares]
    return np.stack(both).astype(np.uint8)


def prepared(pixels: np.ndarray, how: Preprocessing) -> np.ndarray:
    """What was done outside so far: reversed as for BGR, and normalized."""
    return normalize(pixels[..., ::-1] if how.channels == "BGR" else pixels, how)


def run(path: Path, **inputs: np.ndarray) -> np.ndarray:
    (result,) = run_session(open_session(path), inputs).values()
    return result


def op_types(path: Path) -> list[str]:
    return [node.op_type for node in files.load(path).graph]


BYTES = ["Transpose", "Cast"]


@pytest.mark.parametrize(
    ("nodes", "kept"),
    [
        # A border of zeros stands for the mean.
        (PADDED, [*BYTES, "Sub", "Conv"]),
        ("y = Conv <strides = [2, 2]> (x, w, bias)", [*BYTES, "Conv"]),
        ('y = Conv <auto_pad = "SAME_UPPER"> (x, w)', [*BYTES, "Sub", "Conv"]),
        ("p = Pad (x, border) y = Conv (p, w)", [*BYTES, "Sub", "Conv"]),
        (
            'p = Pad <mode = "reflect"> (x, border) y = Conv (p, w)',
            [*BYTES, "Sub", "Gather", "Mul", "Pad", "Conv"],
        ),
        (
            "y = Conv <group = 3, pads = [1, 1, 1, 1]> (x, depthwise)",
            [*BYTES, "Sub", "Gather", "Conv"],
        ),
        ("y = ConvTranspose <strides = [2, 2]> (x, same)", [*BYTES, "Sub", "ConvTranspose"]),
        ("y = Abs (x)", [*BYTES, "Sub", "Gather", "Mul", "Abs"]),
        # Something else reads the input too.
        (
            "a = Conv <pads = [1, 1, 1, 1]> (x, same) y = Add (a, x)",
            [*BYTES, "Sub", "Gather", "Mul", "Conv", "Add"],
        ),
        (
            "a = Conv (x, v) b = Conv <pads = [1, 1, 1, 1]> (x, w) y = Concat <axis = 1> (a, b)",
            [*BYTES, "Sub", "Gather", "Conv", "Conv", "Concat"],
        ),
        # The weights are those of another layer as well.
        (
            "a = Conv <pads = [1, 1, 1, 1]> (x, same) y = Conv <pads = [1, 1, 1, 1]> (a, same)",
            [*BYTES, "Sub", "Conv", "Conv"],
        ),
        (
            "b = BatchNormalization <epsilon = 3.0> (x, one, shift, shift, one) "
            "y = Conv <pads = [1, 1, 1, 1]> (b, w)",
            [*BYTES, "Sub", "Gather", "Mul", "BatchNormalization", "Conv"],
        ),
        (
            "q = DequantizeLinear (bytes, steps) y = Conv <pads = [1, 1, 1, 1]> (x, q)",
            ["DequantizeLinear", *BYTES, "Sub", "Gather", "Mul", "Conv"],
        ),
    ],
)
def test_to_the_bit(tmp_path: Path, nodes: str, kept: list[str]) -> None:
    source, out = write(tmp_path / "m.onnx", nodes), tmp_path / "out.onnx"
    artifact = export(source, out, preprocessing=EXACT)
    assert artifact.validation.passed
    assert sorted(op_types(out)) == sorted(kept)
    for size in ((9, 7), (8, 3)):
        x = pictures(*size)
        np.testing.assert_array_equal(run(out, x=x), run(source, x=prepared(x, EXACT)))


def test_what_bodies_read(tmp_path: Path) -> None:
    branch = "() => (float[N, C, P, Q] {0}) {{ {0} = {1} (x, w) }}"
    nodes = (
        "m = ReduceMax <keepdims = 0> (x) c = Less (m, steps) y = If (c) "
        f"<then_branch = t {branch.format('a', 'Conv')}, "
        f"else_branch = e {branch.format('b', 'Conv <strides = [2, 2]>')}>"
    )
    source, out = write(tmp_path / "m.onnx", nodes), tmp_path / "out.onnx"
    export(source, out, preprocessing=EXACT)
    for x in (pictures(), np.zeros((1, 9, 7, 3), np.uint8)):
        np.testing.assert_array_equal(run(out, x=x), run(source, x=prepared(x, EXACT)))


@pytest.mark.parametrize("said", [True, False])
def test_channels_last(tmp_path: Path, said: bool) -> None:
    how = dataclasses.replace(EXACT, layout="NHWC")
    fields = {k: v for k, v in dataclasses.asdict(how).items() if k != "layout"}
    source = write(
        tmp_path / "m.onnx", f"{TO_NCHW} {PADDED.replace('(x', '(t')}", "float[N, H, W, 3] x"
    )
    out = tmp_path / "out.onnx"
    export(source, out, preprocessing=how if said else fields)
    assert op_types(out) == [*BYTES, "Sub", "Conv"]
    np.testing.assert_array_equal(run(out, x=pictures()), run(source, x=prepared(pictures(), how)))


def test_against_torch_in_float64(tmp_path: Path) -> None:
    source, out = write(tmp_path / "m.onnx", PADDED), tmp_path / "out.onnx"
    artifact = export(source, out, preprocessing=IMAGENET)
    pixels = torch.from_numpy(pictures()).double().permute(0, 3, 1, 2)
    mean, std = (torch.tensor(v).double().reshape(3, 1, 1) for v in (IMAGENET.mean, IMAGENET.std))
    weight = torch.from_numpy(WEIGHTS["w"]).double()
    want = torch.nn.functional.conv2d((pixels / 255 - mean) / std, weight, padding=1).numpy()
    assert np.abs(run(out, x=pictures()) - want).max() < 1e-6 * np.ptp(want)
    assert artifact.notes == (
        "'x' takes pictures as uint8 NxHxWx3, in RGB",
        "the mean stays before the first layer: a shift before a padded convolution is missing in "
        "the padding",
    )


def test_grey(tmp_path: Path) -> None:
    source = write(tmp_path / "m.onnx", "y = Abs (x)", "float[2, 1, H, W] x")
    how = Preprocessing(channels="L", scale=0.5, mean=(20.0,))
    artifact = export(source, tmp_path / "out.onnx", preprocessing=how)
    assert artifact.notes[0].endswith("uint8 2xHxWx1, grey")
    x = pictures()[:2, ..., :1]
    np.testing.assert_array_equal(run(tmp_path / "out.onnx", x=x), np.abs(prepared(x, how)))


def test_float16_weights_stay_as_they_are(tmp_path: Path) -> None:
    half = WEIGHTS["w"].astype(np.float16) / 256
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float16[N, 3, H, W] x) => (float16[] y)'
    files.save(parse(f"{text} {{ {PADDED} }}", w=half), tmp_path / "m.onnx")
    out = tmp_path / "out.onnx"
    export(tmp_path / "m.onnx", out, preprocessing=IMAGENET)
    assert op_types(out) == [*BYTES, "Sub", "Mul", "Cast", "Conv"]
    x = prepared(pictures(), IMAGENET).astype(np.float16)
    want = run(tmp_path / "m.onnx", x=x)
    assert np.abs(run(out, x=pictures()) - want).max() < 2e-3 * np.ptp(want)


POOLED = "a = Conv (x, w) g = GlobalMaxPool (a) y = Flatten (g)"
LAST = f"{PADDED} t = Transpose <perm = [0, 2, 3, 1]> (y)"


@pytest.mark.parametrize(
    ("nodes", "y", "opset", "axis"),
    [
        (PADDED, "float[N, 4, H, W] y", 17, 1),
        # Until opset 13 one Softmax is over all channels and pixels.
        (PADDED, "float[N, 4, H, W] y", 11, 1),
        (POOLED, "float[N, 4] y", 11, 1),
        (f"{PADDED} z = LogSoftmax <axis = 1> (y)", "float[N, 4, H, W] z", 17, 1),
        (f"{LAST} z = LogSoftmax (t)", "float[N, H, W, 4] z", 17, 3),
        (f"{LAST} z = LogSoftmax <axis = -1> (t)", "float[N, H, W, 4] z", 11, 3),
    ],
)
@pytest.mark.parametrize("postprocess", ["argmax", "softmax"])
def test_classes(
    tmp_path: Path, nodes: str, y: str, opset: int, axis: int, postprocess: str
) -> None:
    source, out = write(tmp_path / "m.onnx", nodes, y=y, opset=opset), tmp_path / "out.onnx"
    export(source, out, postprocess=postprocess)
    x = prepared(pictures(), IMAGENET)
    scores, found = run(source, x=x), run(out, x=x)
    if postprocess == "argmax":
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, scores.argmax(axis))
        assert "LogSoftmax" not in op_types(out)
    else:
        want = torch.softmax(torch.from_numpy(scores), axis).numpy()
        np.testing.assert_allclose(found, want, atol=1e-6)
    (value,) = files.load(out).graph.outputs
    assert value.name == y.split()[-1]


def test_classes_of_channels_last(tmp_path: Path) -> None:
    nodes = f"{TO_NCHW} a = Conv (t, w) y = Transpose <perm = [0, 2, 3, 1]> (a)"
    head = {"x": "float[N, H, W, 3] x", "y": "float[N, P, Q, 4] y"}
    source, out = write(tmp_path / "m.onnx", nodes, **head), tmp_path / "out.onnx"
    how = dataclasses.replace(EXACT, layout="NHWC")
    export(source, out, preprocessing=how, postprocess="argmax")
    want = run(source, x=prepared(pictures(), how)).argmax(-1)
    np.testing.assert_array_equal(run(out, x=pictures()), want)


def test_one_of_several(tmp_path: Path) -> None:
    nodes = f"{PADDED} z = Conv <pads = [1, 1, 1, 1]> (q, w)"
    head = {"x": "float[N, 3, H, W] x, float[N, 3, H, W] q"}
    source = write(tmp_path / "m.onnx", nodes, **head, y="float[N, 4, H, W] y, float[] z")
    out = tmp_path / "out.onnx"
    for options, message in (
        ({"preprocessing": EXACT}, "several inputs take 3 channels .*picture-input from x, q"),
        ({"preprocessing": EXACT, "picture_input": "p"}, "no input 'p'; choose .*from x, q"),
        ({"postprocess": "argmax"}, "several outputs; choose .*scores-output from y, z"),
        ({"postprocess": "argmax", "scores_output": "x"}, "no output 'x'"),
    ):
        with pytest.raises(InputError, match=message):
            export(source, out, **options)
    x, q = prepared(pictures(), EXACT), normal(4, 3, 9, 7)
    export(
        source, out, preprocessing=EXACT, picture_input="q", postprocess="argmax", scores_output="z"
    )
    session = open_session(out)
    assert [value.name for value in session.get_inputs()] == ["x", "q"]
    found = run_session(session, {"x": q, "q": pictures()})
    want = run_session(open_session(source), {"x": q, "q": x})
    np.testing.assert_array_equal(found["z"], want["z"].argmax(1))
    np.testing.assert_allclose(found["y"], want["y"], atol=1e-4)


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        ("float[N, 4, H, W] x", "float[] y", {"preprocessing": EXACT}, "no input is a float"),
        ("int32[N, 3, H, W] x", "int32[] y", {"preprocessing": EXACT}, "no input is a float"),
        (
            "float[N, 4, H, W] x",
            "float[] y",
            {"preprocessing": EXACT, "picture_input": "x"},
            r"input 'x' is no float tensor of 4 dimensions with 3 channels \(BGR, NCHW\)",
        ),
        ("float[N, 1, H, W] x", "float[] y", {"postprocess": "argmax"}, "only one class"),
        ("int32[N, 3, H, W] x", "int32[] y", {"postprocess": "argmax"}, "no float tensor"),
        ("float[N] x", "float[] y", {"postprocess": "argmax"}, "no float tensor of known rank"),
        ("float[N, 3] x", "float[] y", {}, "say which with --scale"),
        ("float[N, 3] x", "float[] y", {"postprocess": "top5"}, "'top5' is unknown"),
        (
            "float[N, 3, H, W] x",
            "float[] y",
            {"preprocessing": Preprocessing(resize=224)},
            "--resize and --crop: not for --to onnx",
        ),
        (
            "float[N, 3] x",
            "float[] y",
            {"postprocess": "argmax", "picture_input": "x"},
            "--picture-input: nothing is done to it",
        ),
    ],
)
def test_what_cannot_be(
    tmp_path: Path, x: str, y: str, options: dict[str, Any], message: str
) -> None:
    source = write(tmp_path / "m.onnx", "y = Abs (x)", x, y)
    with pytest.raises(InputError, match=message):
        export(source, tmp_path / "out.onnx", **options)
    assert not (tmp_path / "out.onnx").exists()


def test_an_input_that_is_returned(tmp_path: Path) -> None:
    source = write(tmp_path / "m.onnx", PADDED, y="float[N, 4, H, W] y, float[N, 3, H, W] x")
    with pytest.raises(InputError, match="not an output too"):
        export(source, tmp_path / "out.onnx", preprocessing=EXACT)


def test_an_old_softmax_over_several_axes_is_not_one_over_classes(tmp_path: Path) -> None:
    nodes = f"{PADDED} z = LogSoftmax <axis = 2> (y)"
    source = write(tmp_path / "m.onnx", nodes, y="float[N, 4, H, W] z", opset=11)
    export(source, tmp_path / "out.onnx", postprocess="argmax")
    assert "LogSoftmax" in op_types(tmp_path / "out.onnx")
    x = prepared(pictures(), IMAGENET)
    np.testing.assert_array_equal(run(tmp_path / "out.onnx", x=x), run(source, x=x).argmax(1))


def test_no_softmax_of_a_softmax(tmp_path: Path) -> None:
    nodes = f"{POOLED} p = Softmax (y) z = Identity (p)"
    source = write(tmp_path / "m.onnx", nodes, y="float[N, 4] z")
    with pytest.raises(InputError, match="a Softmax makes output 'z' already"):
        export(source, tmp_path / "out.onnx", postprocess="softmax")


def test_another_result_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def off(model: ir.Model, *rest: Any, **options: Any) -> Any:
        folded = fuse(model, *rest, **options)
        bias = next(v for v in folded.model.graph.initializers.values() if v.shape == (4,))
        bias.const_value = ir.tensor(bias.const_value.numpy() + 1)
        return folded

    monkeypatch.setattr(self_contained, "fuse", off)
    source = write(tmp_path / "m.onnx", "y = Conv (x, w, bias)")
    with pytest.raises(CheckError, match="nothing was written"):
        export(source, tmp_path / "out.onnx", preprocessing=IMAGENET)
    assert not (tmp_path / "out.onnx").exists()


def test_own_pictures(tmp_path: Path) -> None:
    source, out = write(tmp_path / "m.onnx", PADDED), tmp_path / "out.onnx"
    artifact = export(source, out, preprocessing=IMAGENET, data={"x": pictures()})
    assert artifact.validation.shapes == ("x=4x9x7x3",)
    floats = prepared(pictures(), IMAGENET)
    with pytest.raises(InputError, match="the model wants uint8"):
        export(source, out, preprocessing=IMAGENET, data={"x": floats})


def test_a_network_that_segments(tmp_path: Path) -> None:
    source, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    files.save(
        catalog.build("unet", input_shape=("N", 3, 32, 32), classes=5, depth=2, base=8), source
    )
    export(source, out, preprocessing=IMAGENET, postprocess="argmax")
    x = pictures(32, 32)
    found, scores = run(out, x=x), run(source, x=prepared(x, IMAGENET))
    assert found.shape == (4, 32, 32)
    # Two scores may be equal up to rounding.
    chosen = np.take_along_axis(scores, found[:, None], 1)[:, 0]
    assert np.abs(chosen - scores.max(1)).max() < 1e-4 * np.ptp(scores)
    assert (found == scores.argmax(1)).mean() > 0.999


def test_a_trained_classifier(tmp_path: Path) -> None:
    try:
        source, out = model_path("ppocr_cls"), tmp_path / "out.onnx"
    except Unavailable as reason:
        pytest.skip(str(reason))
    how = Preprocessing(channels="BGR", mean=(0.5,), std=(0.5,))
    artifact = export(source, out, preprocessing=how, postprocess="argmax")
    assert artifact.validation.passed
    x = np.concatenate([pictures(48, 192), pictures(48, 192)[:, ::-1]])
    scores = run_session(open_session(source), {"x": prepared(x, how)})
    (want,) = scores.values()
    np.testing.assert_array_equal(run(out, x=x), want.argmax(1))
