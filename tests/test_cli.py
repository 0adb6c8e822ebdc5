"""The command line as it is typed: results, files and exit statuses."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from advconv_onnx.cli import main, parse_inputs
from advconv_onnx.records import Placement, Shape

from .parsing import normal, parse
from .report.records import MEASUREMENT

ADVCONV = Path(sysconfig.get_path("scripts"), "advconv")

BLOCK = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 3, H, W] x) => (float[N, 4, P, Q] y) {
        a = Conv<pads=[1, 1, 1, 1]>(x, w)
        b = Mul(a, scale)
        y = Relu(b)
    }"""


def write_block(path: Path, *, scale: float = 1.0) -> None:
    weights = {"w": normal(4, 3, 3, 3), "scale": scale * normal(4, 1, 1, seed=1)}
    onnx.save(ir.to_proto(parse(BLOCK, **weights)), path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a model."""
    monkeypatch.chdir(tmp_path)
    write_block(tmp_path / "model.onnx")
    return tmp_path


def run(call: str, capfd: pytest.CaptureFixture[str], status: int = 0) -> str:
    assert main(shlex.split(call)) == status
    out, err = capfd.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize(
    ("arguments", "shapes"),
    [
        ([], {}),
        (["x=1x3x640x640"], {"x": (1, 3, 640, 640)}),
        (["x=Nx3xHxW"], {"x": ("N", 3, "H", "W")}),
        (["x=?x3"], {"x": (None, 3)}),
        (["a=1", "b=batchx2"], {"a": (1,), "b": ("batch", 2)}),
        (["serving_default_input_2:0=1x43844x1"], {"serving_default_input_2:0": (1, 43844, 1)}),
        (["a=b=1x2"], {"a=b": (1, 2)}),
    ],
)
def test_input_shapes_are_read(arguments: list[str], shapes: dict[str, Shape]) -> None:
    assert parse_inputs(arguments) == shapes


def test_fuse_writes_a_smaller_model_and_says_so(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = run("optimize model.onnx -o out.onnx --level fuse --json report.json", capfd)
    assert "fold_affine" in out
    assert "\x1b" not in out
    assert len(onnx.load("out.onnx").graph.node) == 2
    report = json.loads(Path("report.json").read_text())
    assert (report["model"]["nodes"], report["optimized"]["nodes"]) == (3, 2)
    assert "latency" not in report
    assert sorted(os.listdir()) == ["model.onnx", "out.onnx", "report.json"]


def test_search_reports_a_latency_as_json_alone(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report = json.loads(
        run("optimize model.onnx -o out.onnx --time-limit 1 --input x=1x3x16x16 --json -", capfd)
    )
    assert set(report["latency"]) == {"original_ms", "optimized_ms", "speedup"}
    dims = onnx.load("out.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [1, 3, 16, 16]


def test_quiet_prints_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("optimize model.onnx -o out.onnx --level fuse --quiet", capfd) == ""
    assert Path("out.onnx").exists()


def test_options_reach_optimize(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}

    def record(model: Path, out: Path, **options: Any) -> None:
        seen.update(options, model=model, out=out)
        raise MemoryError

    monkeypatch.setattr("advconv_onnx.optimizer.pipeline.optimize", record)
    np.savez("arrays.npz", x=normal(1, 3, 8, 8))
    main(
        shlex.split(
            "optimize model.onnx -o out.onnx --input x=1x3x8x8 --provider cuda --threads 3 "
            "--level fuse --max-error 1e-3 --max-growth 1.5 --time-limit 60 --memory-limit 2.5 "
            "--data arrays.npz --seed 7"
        )
    )
    del seen["progress"]
    np.testing.assert_array_equal(seen.pop("data")["x"], normal(1, 3, 8, 8))
    assert seen == {
        "model": Path("model.onnx"),
        "out": Path("out.onnx"),
        "inputs": {"x": (1, 3, 8, 8)},
        "provider": "cuda",
        "threads": 3,
        "level": "fuse",
        "max_error": 1e-3,
        "max_growth": 1.5,
        "time_limit": 60.0,
        "memory_limit": 2.5,
        "seed": 7,
    }


def test_inspect_into_a_pipe_keeps_every_row_on_a_line(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name = "a_very_long_name/" * 20
    model = onnx.load("model.onnx")
    model.graph.node[0].name = name
    onnx.save(model, "model.onnx")
    assert f"{name} dense" in run("inspect model.onnx --input x=1x3x16x16", capfd)


def test_inspect_as_json_prints_nothing_else(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(run("inspect model.onnx --input x=1x3x16x16 --json", capfd))
    assert found["macs"] == 16 * 16 * 4 * 27
    assert [layer["kind"] for layer in found["layers"]] == ["dense"]


def test_validate_trusts_the_other_model(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "passed" in run("validate model.onnx", capfd)
    write_block(folder / "other.onnx", scale=1.01)
    out = run("validate other.onnx --against model.onnx --layers --json v.json", capfd, status=1)
    assert "FAILED" in out
    assert "first tensor beyond max_error: 'b'" in out
    assert json.loads(Path("v.json").read_text())["passed"] is False
    assert "passed" in run("validate other.onnx --against model.onnx --max-error 0.1", capfd)


def test_validate_reports_what_the_other_model_has_and_this_one_lacks(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = parse(BLOCK.replace("Q] y", "Q] z").replace("y =", "z ="),
                  w=normal(4, 3, 3, 3), scale=normal(4, 1, 1))  # fmt: skip
    onnx.save(ir.to_proto(other), "other.onnx")
    out = run("validate other.onnx --against model.onnx", capfd, status=1)
    assert "missing y, new z" in out


def test_validate_takes_over_sizes_that_only_one_model_fixes(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load("model.onnx")
    for dim, size in zip(
        model.graph.input[0].type.tensor_type.shape.dim, (1, 3, 20, 24), strict=True
    ):
        dim.dim_value = size
    onnx.save(model, "fixed.onnx")
    out = run("validate fixed.onnx --against model.onnx", capfd)
    assert "x=1x3x20x24" in out
    assert ";" not in out.split("tried")[1]


def test_bench_compares_models_at_the_shape_asked_for(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run("optimize model.onnx -o out.onnx --level fuse", capfd)
    out = run("bench model.onnx out.onnx --input x=1x3x16x16 --json bench.json", capfd)
    assert "x=1x3x16x16" in out
    [result] = json.loads(Path("bench.json").read_text())["runs"]
    assert [timing["name"] for timing in result["measurement"]["timings"]] == [
        "model.onnx",
        "out.onnx",
    ]


def test_a_model_that_does_not_run_fails_the_bench(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = parse("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 3, H, W] x) => (float[N, 3, H, W] y) { y = Add(x, shift) }""",
        shift=normal(1, 3, 20, 20),
    )  # fmt: skip
    onnx.save(ir.to_proto(other), "other.onnx")
    out = run("bench model.onnx other.onnx --input x=1x3x16x16", capfd, status=1)
    assert "failed  other.onnx: ONNX Runtime does not load it" in out


def test_nodes_that_another_provider_did_not_take_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As if a second provider were here: the CPU's, under another name."""
    from advconv_onnx.runtime import providers

    table = {**providers.PROVIDERS, "abacus": providers.PROVIDERS["cpu"]}
    monkeypatch.setattr(providers, "PROVIDERS", table)
    monkeypatch.setattr(providers, "status", lambda name: providers.ProviderStatus(name, True, ""))
    monkeypatch.setattr(
        "advconv_onnx.runtime.placement.placement",
        lambda model, provider: Placement({"CPUExecutionProvider": 3}, ("Relu_2",)),
    )
    monkeypatch.setattr("advconv_onnx.runtime.timing.measure", lambda *_, **__: MEASUREMENT)
    for call in (
        "optimize model.onnx -o out.onnx --level fuse --provider abacus",
        "validate model.onnx --provider abacus",
        "bench model.onnx --provider cpu,abacus",
    ):
        assert "1 of 3 nodes not on abacus: Relu_2" in run(call, capfd)


def test_export_writes_what_it_checked(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = run("export torch.nn:Sigmoid -o s.onnx --input input=Nx3", capfd)
    assert "passed" in out
    assert "written to s.onnx" in out
    assert [node.op_type for node in onnx.load("s.onnx").graph.node] == ["Sigmoid"]


def test_doctor_lists_providers_and_packages(capfd: pytest.CaptureFixture[str]) -> None:
    out = run("doctor", capfd)
    assert all(name in out for name in ("cpu", "cuda", "tensorrt", "openvino", "torch"))
    found = json.loads(run("doctor --json", capfd))
    versions = {package["name"]: package["version"] for package in found["packages"]}
    assert versions["onnx"] == onnx.__version__


def test_a_missing_package_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    row = ("no-such-package", "nothing", "pip install it")
    monkeypatch.setattr("advconv_onnx.cli._PACKAGES", (row,))
    assert "no-such-package  missing  nothing  pip install it" in run("doctor", capfd)


def test_version_and_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--version", capfd).startswith("advconv-onnx ")
    text = run("--help", capfd)
    for command in (
        *("optimize", "inspect", "validate", "bench"),
        *("export", "convert", "build", "doctor"),
    ):
        assert command in text
    assert "--html" not in text


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from advconv_onnx.cli import main; main(['--help']);"
        "print(sorted({'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_libraries_are_silent_unless_debugging(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    from advconv_onnx.records import Inspection

    def noisy(model: ir.Model) -> Inspection:
        logging.getLogger("onnxscript").warning("a log line")
        warnings.warn("a warning", stacklevel=1)
        os.write(2, b"native noise\n")
        return Inspection((), (), 0, 0)

    monkeypatch.setattr("advconv_onnx.inspection.inspect", noisy)
    assert "0 convolution-like layers" in run("inspect model.onnx", capfd)
    assert caplog.messages == []
    with pytest.warns(UserWarning, match="a warning"):
        assert main(["inspect", "model.onnx", "--debug"]) == 0
    assert "native noise" in capfd.readouterr().err
    assert caplog.messages == ["a log line"]


@pytest.mark.parametrize("quiet", [False, True])
def test_progress_is_for_terminals_and_not_for_quiet(folder: Path, quiet: bool) -> None:
    pty = pytest.importorskip("pty")
    parent, child = pty.openpty()
    call = [ADVCONV, "optimize", "model.onnx", "-o", "out.onnx", "--level", "fuse"]
    process = subprocess.Popen(
        [*call, "--quiet"] if quiet else call,
        stdout=subprocess.PIPE,
        stderr=child,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(child)
    shown = b""
    with contextlib.suppress(OSError):  # this is how Linux tells the end of a terminal
        while piece := os.read(parent, 4096):
            shown += piece
    os.close(parent)
    out, _ = process.communicate()
    assert process.returncode == 0
    assert (b"writing" in shown) == (b"fold_affine" in out) == (not quiet)
