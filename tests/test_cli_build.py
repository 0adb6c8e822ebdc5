"""advconv build, as it is typed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import safetensors.numpy

import advconv_onnx
from advconv_onnx import catalog
from advconv_onnx.cli import main
from tests.parsing import normal


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(call: str, capfd: pytest.CaptureFixture[str]) -> str:
    assert main(shlex.split(call)) == 0
    out, err = capfd.readouterr()
    assert err == ""
    return out


def test_builds_a_layer_with_its_own_options(capfd: pytest.CaptureFixture[str]) -> None:
    out = run("build conv -o c.onnx --channels 8 --kernel-shape 3,5 --bias=no "
              "--input x=1x4x20x20 --opset 13 --dtype float16", capfd)  # fmt: skip
    model = onnx.load("c.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == 13
    [weight] = model.graph.initializer
    assert (list(weight.dims), weight.data_type) == ([8, 4, 3, 5], onnx.TensorProto.FLOAT16)
    assert "1x4x20x20 to 1x8x18x16" in out
    assert "480 parameters" in out


def test_builds_a_network_the_same_twice(capfd: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(f"build mobilenet_v2 -o {name}.onnx --width 0.25 --classes 5 --seed {seed}", capfd)
    a, b, c = (Path(f"{name}.onnx").read_bytes() for name in "abc")
    assert a == b
    assert a != c
    assert [output.name for output in onnx.load("a.onnx").graph.output] == ["y"]


def test_reports_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run("build pointwise_conv -o p.onnx --channels 4 --json -", capfd))
    assert found["schema"] == 1
    assert found["parameters"] == 4 * 32 + 4
    assert found["output_shape"] == ["N", 4, 56, 56]
    assert found["inspection"]["layers"][0]["kind"] == "pointwise"


def test_takes_a_state_dict(capfd: pytest.CaptureFixture[str]) -> None:
    trained = {"weight": normal(4, 3, 3, 3), "bias": normal(4)}
    safetensors.numpy.save_file({f"conv.{n}": a for n, a in trained.items()}, "conv.safetensors")
    run("build conv -o c.onnx --channels 4 --input x=1x3x8x8 --state-dict conv.safetensors", capfd)
    weights = ir.load("c.onnx").graph.initializers
    np.testing.assert_array_equal(weights["conv.weight"].const_value.numpy(), trained["weight"])


def test_float16_is_validated_by_its_own_measure(capfd: pytest.CaptureFixture[str]) -> None:
    shape = "--input x=1x3x64x64"
    run(f"build mobilenet_v2 -o half.onnx --width 0.35 --dtype float16 {shape}", capfd)
    assert "5e-03" in run("validate half.onnx", capfd)
    assert main(shlex.split("validate half.onnx --max-error 1e-5")) == 1


def test_weights_are_never_replaced(capfd: pytest.CaptureFixture[str]) -> None:
    weights = Path("conv.safetensors")
    safetensors.numpy.save_file({"conv.weight": normal(4, 3, 3, 3)}, weights)
    before = weights.read_bytes()
    Path("link.onnx").symlink_to(weights)
    call = "build conv --channels 4 --bias=no --input x=1x3x8x8 --state-dict conv.safetensors"
    for out in ("-o conv.safetensors", "-o link.onnx", "-o c.onnx --json conv.safetensors"):
        assert main(shlex.split(f"{call} {out}")) == 2
        assert "is an input, which is never modified" in capfd.readouterr().err
    assert weights.read_bytes() == before


def test_a_layer_takes_a_name_and_a_scale_per_axis(capfd: pytest.CaptureFixture[str]) -> None:
    run("build upsample -o u.onnx --name up --scale 2,1.5 --input x=1x2x4x4", capfd)
    assert [node.name for node in onnx.load("u.onnx").graph.node] == ["up"]
    out = run("build upsample --list", capfd)
    assert "--scale" in out
    assert "--like" not in out


def test_lists_everything(capfd: pytest.CaptureFixture[str]) -> None:
    out = run("build --list", capfd)
    assert all(f"\n{name} " in out for name in catalog.entries())
    out = run("build conv --list", capfd)
    assert "--channels (required)" in out
    assert "mobilenet" not in out


def test_compares(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advconv_onnx.runtime.timing._MAX_ROUNDS", 5)
    call = "build --compare --input x=1x8x9x9 --rate 3 --channels 4 --json c.json"
    out = run(call, capfd)
    assert "rate 3 3x3" in out
    assert "7x7" in out
    assert len(json.loads(Path("c.json").read_text())["alternatives"]) == 7


def test_is_one_function_of_the_public_api() -> None:
    model = advconv_onnx.build("depthwise_conv", input_shape=(1, 2, 5, 5))
    assert [node.op_type for node in model.graph] == ["Conv"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("build", "give NAME -o OUT, NAME first, or --list, or --compare"),
        ("build conv", "give NAME -o OUT"),
        ("build --compare -o x.onnx", "give NAME -o OUT"),
        ("build conv --compare", "give NAME -o OUT"),
        ("build --width 2 mobilenet_v2 -o x.onnx", "NAME first"),
        ("build nothing -o x.onnx", "'nothing' is no layer or network; use one of conv"),
        ("build conv -o x.onnx", "conv needs --channels: give an integer"),
        ("build conv -o x.onnx --channels 3 --pad 1", "conv has no option '--pad'; it has"),
        ("build conv -o x.onnx --channels 3 --input a=1x3x4x4", "one input, called 'x'"),
        ("build conv -o x.onnx --channels 3 --input x=1x3", "one to three spatial axes"),
        ("build conv -o x.onnx --channels 3 --dtype float64", "no double kernel for Conv"),
        ("build conv -o x.onnx --channels 3 --opset 9", "opset 9: layers exist for 11 to"),
        ("build conv -o missing/x.onnx --channels 3", "cannot write 'missing/x.onnx'"),
        ("build conv -o x.onnx --channels 3 --json x.onnx", "would replace a model"),
        ("build mobilenet_v2 -o x.onnx --width 0", "width=0.0; give a finite multiplier above 0"),
        ("build mobilenet_v2 -o x.onnx --state-dict no", "cannot read 'no'"),
        ("build --compare --input x=Nx3x8x8", "fix batch, channels and sizes"),
        ("build --compare --dtype float16", "leave out --dtype, --opset and --state-dict"),
    ],
)
def test_bad_calls_are_one_line(
    call: str, message: str, capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    assert main(shlex.split(call)) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert not list(folder.iterdir())
