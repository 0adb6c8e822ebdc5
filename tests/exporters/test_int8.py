"""8 bits: what can be is, what must not stays, and nothing slower is written unasked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image, ImageDraw, ImageFont

from advconv_onnx import catalog
from advconv_onnx import model as files
from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.exporters import int8
from advconv_onnx.records import Artifact, Latency, Measurement, Ratio, Timing
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session
from samples.fetch_models import Unavailable, model_path
from tests.parsing import normal, parse

CONVS = "a = Conv <pads = [1, 1, 1, 1]> (x, w) r = Relu (a) z = Conv <pads = [1, 1, 1, 1]> (r, v)"
WEIGHTS = {"w": normal(4, 4, 3, 3, seed=1), "v": normal(4, 4, 3, 3, seed=2)}


def write(path: Path, nodes: str = CONVS, opset: int = 17, **weights: np.ndarray) -> Path:
    head = f'<ir_version: 8, opset_import: ["" : {opset}]>'
    sides = "g (float[N, 4, 9, 8] x) => (float[N, 4, 9, 8] z)"
    files.save(parse(f"{head} {sides} {{ {nodes} }}", **WEIGHTS | weights), path)
    return path


def uniform(*shape: int, seed: int = 3) -> np.ndarray:
    """Few of them show the whole range."""
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def data(number: int = 24) -> dict[str, np.ndarray]:
    return {"x": uniform(number, 4, 9, 8)}


def timed(speedup: float) -> Measurement:
    ratio = Ratio(speedup, speedup - 0.01, speedup + 0.01)
    baseline = Timing("float32", Latency(1, 1), Ratio(1, 1, 1))
    other = Timing("int8", Latency(1 / speedup, 1 / speedup), ratio)
    return Measurement((baseline, other), Ratio(1, 0.99, 1.01), 15, "x")


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests are about does not depend on a clock."""
    monkeypatch.setattr(int8, "measure", lambda *_, **__: timed(2))


def export(tmp_path: Path, nodes: str = CONVS, **wanted: Any) -> tuple[Artifact, ir.Model]:
    source = write(tmp_path / "m.onnx", nodes, far=np.float32(2000))
    artifact = int8.export(source, tmp_path / "q.onnx", **{"data": data()} | wanted)
    return artifact, files.load(tmp_path / "q.onnx")


def kept(artifact: Artifact) -> list[str]:
    return [layer.op_type for layer in artifact.layers if layer.kept]


def error(one: Path, other: Path, x: np.ndarray) -> float:
    """Root mean square; the largest would be that of values outside of the ranges."""
    want, got = (run_session(open_session(path), {"x": x})["z"] for path in (one, other))
    return float(np.sqrt(np.square(want - got).mean()) / np.ptp(want))


@pytest.mark.parametrize("calibration", ["minmax", "entropy", "percentile"])
def test_a_network_is_converted_and_stays_close(tmp_path: Path, calibration: str) -> None:
    artifact, model = export(tmp_path, calibration=calibration)
    assert artifact.validation.passed
    assert artifact.validation.max_error == 5e-2
    assert not kept(artifact)
    assert [layer.op_type for layer in artifact.layers] == ["Conv", "Conv"]
    assert all(0 < layer.error < 0.05 for layer in artifact.layers)
    stored = {v.const_value.dtype for v in model.graph.initializers.values() if v.const_value}
    assert ir.DataType.INT8 in stored
    assert not any(v.name in ("w", "v") for v in model.graph.initializers.values())
    # On inputs that neither gave ranges nor judged.
    assert error(tmp_path / "m.onnx", tmp_path / "q.onnx", uniform(2, 4, 9, 8, seed=8)) < 0.01
    assert artifact.measurement is not None
    assert artifact.bytes == (tmp_path / "q.onnx").stat().st_size


def test_what_is_folded_into_a_layer_is_quantized_with_it(tmp_path: Path) -> None:
    norm = "a = Conv <pads = [1, 1, 1, 1]> (x, w) z = BatchNormalization (a, s, o, m, q)"
    source = write(tmp_path / "m.onnx", norm, s=np.abs(normal(4)), o=normal(4, seed=4),
                   m=normal(4, seed=5), q=np.abs(normal(4, seed=6)) + 1)  # fmt: skip
    artifact = int8.export(source, tmp_path / "q.onnx", data=data())
    assert [layer.op_type for layer in artifact.layers] == ["Conv"]
    assert "BatchNormalization" not in {n.op_type for n in files.load(tmp_path / "q.onnx").graph}


def test_what_loses_too_much_stays(tmp_path: Path) -> None:
    nodes = (
        "a = Conv <pads = [1, 1, 1, 1]> (x, w) b = Mul (x, far) h = Add (a, b) n = Sub (h, b)"
        " z = Conv <pads = [1, 1, 1, 1]> (n, v)"
    )
    source = write(tmp_path / "m.onnx", nodes, far=np.float32(2000))
    artifact = int8.export(source, tmp_path / "q.onnx", data=data(), max_error=0.1)
    assert "Add" in kept(artifact)
    assert "Conv" not in kept(artifact)
    assert artifact.layers[-1].op_type == "Conv"
    assert error(source, tmp_path / "q.onnx", uniform(2, 4, 9, 8, seed=8)) < 0.01


def test_a_model_that_allows_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="no part of the model can be in 8 bits"):
        export(tmp_path, max_error=1e-6)
    assert not (tmp_path / "q.onnx").exists()


def test_slower_is_refused_unless_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "measure", lambda *_, **__: timed(0.8))
    with pytest.raises(CheckError, match=r"int8 is slower here .*0\.80x.*--allow-slower"):
        export(tmp_path)
    assert not (tmp_path / "q.onnx").exists()
    artifact, _ = export(tmp_path, allow_slower=True)
    assert "slower here" in artifact.notes[0]


def test_what_is_not_faster_is_written_and_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "measure", lambda *_, **__: timed(1))
    assert "not measurably faster" in export(tmp_path)[0].notes[0]
    monkeypatch.setattr(int8, "measure", lambda *_, **__: timed(1.1))
    assert "faster" not in " ".join(export(tmp_path)[0].notes)


def test_both_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(int8, "_SECONDS", 0.1)
    artifact, _ = export(tmp_path, allow_slower=True)
    assert artifact.measurement is not None
    assert [timing.name for timing in artifact.measurement.timings] == ["float32", "int8"]


CLASSES = "a = Conv (x, w) r = Relu (a) p = GlobalAveragePool (r) z = Conv (p, k)"


def classifier(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    source = write(tmp_path / "m.onnx", CLASSES, k=normal(4, 4, 1, 1, seed=5))
    given = data(32)
    scores = [run_session(open_session(source), {"x": x[None]})["z"] for x in given["x"]]
    return source, given | {"labels": np.concatenate(scores).argmax(1).ravel()}


def test_the_best_class_must_stay(tmp_path: Path) -> None:
    source, given = classifier(tmp_path)
    artifact = int8.export(source, tmp_path / "q.onnx", data=given, metric="top1", max_drop=0.2)
    [note] = [note for note in artifact.notes if note.startswith("top1")]
    assert note.endswith(", 1 in float32")
    unlabelled = {"x": given["x"]}
    artifact = int8.export(source, tmp_path / "r.onnx", data=unlabelled, metric="top1",
                           max_drop=0.2)  # fmt: skip
    assert note in artifact.notes  # the labels are what the original says


def test_wrong_labels_make_a_low_score(tmp_path: Path) -> None:
    source, given = classifier(tmp_path)
    given["labels"] = (given["labels"] + 1) % 4
    artifact = int8.export(source, tmp_path / "q.onnx", data=given, metric="top1", max_drop=0)
    assert any(note.endswith(", 0 in float32") for note in artifact.notes)


def test_ones_own_metric_decides(tmp_path: Path) -> None:
    x = uniform(1, 4, 9, 8, seed=11)
    source = write(tmp_path / "m.onnx")
    want = run_session(open_session(source), {"x": x})["z"]
    calls = []

    def closeness(run: Any) -> float:
        calls.append(run)
        return -float(np.abs(run({"x": x})["z"] - want).max() / np.ptp(want))

    options: Mapping[str, Any] = {"data": data(), "metric": closeness}
    int8.export(source, tmp_path / "q.onnx", **options, max_drop=0.05)
    assert len(calls) > 1
    with pytest.raises(CheckError, match="--max-drop"):
        int8.export(source, tmp_path / "r.onnx", **options, max_drop=1e-6)


def test_a_metric_must_be_a_number(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="metric of the original is nan"):
        export(tmp_path, metric=lambda run: float("nan"))


def test_where_the_processor_saturates_weights_have_7_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def largest(model: ir.Model) -> int:
        stored = (v.const_value for v in model.graph.initializers.values())
        return max(np.abs(t.numpy().astype(int)).max() for t in stored
                   if t is not None and t.dtype == ir.DataType.INT8)  # fmt: skip

    for exact, bits in ((False, 64), (True, 127)):
        monkeypatch.setattr(int8, "_is_exact", lambda exact=exact: exact)
        artifact, model = export(tmp_path)
        assert largest(model) == bits
        assert any(("7 bits" in note) != exact for note in artifact.notes)
    assert largest(export(tmp_path, weight_bits=7)[1]) == 64


def test_saturation_is_looked_for_where_onnx_runtime_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truth = np.full((4, 64), 255 * 127 * 64, np.int32)
    monkeypatch.setattr(int8, "run_session", lambda *_: {"y": truth})
    assert int8._is_exact()
    monkeypatch.setattr(int8, "run_session", lambda *_: {"y": truth // 2})
    assert not int8._is_exact()


def test_an_old_opset_is_raised(tmp_path: Path) -> None:
    source = write(tmp_path / "m.onnx", opset=9)
    int8.export(source, tmp_path / "q.onnx", data=data())
    assert files.opset(files.load(tmp_path / "q.onnx")) >= 13


def test_external_data(tmp_path: Path) -> None:
    model = files.load(write(tmp_path / "m.onnx"))
    ir.save(model, tmp_path / "e.onnx", external_data="e.data")
    artifact = int8.export(tmp_path / "e.onnx", tmp_path / "q.onnx", data=data())
    assert artifact.validation.passed


def test_fixed_batches(tmp_path: Path) -> None:
    source = write(tmp_path / "m.onnx")
    artifact = int8.export(source, tmp_path / "q.onnx", data=data(), inputs={"x": (3, 4, 9, 8)})
    assert artifact.validation.shapes == ("x=3x4x9x8",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": None}, "give some with --data"),
        ({"calibration": "best"}, "--calibration 'best' is unknown"),
        ({"metric": "top5"}, "--metric 'top5' is unknown"),
        ({"max_drop": -1.0}, "--max-drop must be"),
        ({"weight_bits": 4}, "--weight-bits 4"),
        ({"data": {"x": np.zeros((3, 4, 9, 9), np.float32)}}, "does not fit"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        export(tmp_path, **options)
    assert not (tmp_path / "q.onnx").exists()


def test_top1_needs_classes_and_as_many_labels(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="labels for 72 classes"):
        export(tmp_path, data=data() | {"labels": np.zeros(24, int)}, metric="top1")


def test_a_quantized_model_is_refused(tmp_path: Path) -> None:
    export(tmp_path)
    with pytest.raises(InputError, match="quantized already"):
        int8.export(tmp_path / "q.onnx", tmp_path / "r.onnx", data=data())


def test_models_without_layers_are_refused(tmp_path: Path) -> None:
    for nodes in ("z = Relu (x)", "h = Cast <to = 10> (x) g = Add (h, h) z = Cast <to = 1> (g)"):
        with pytest.raises(InputError, match="nothing can be put in 8 bits"):
            int8.export(write(tmp_path / "m.onnx", nodes), tmp_path / "q.onnx", data=data())


def test_transposed_layers_stay_unless_they_are_asked_for(tmp_path: Path) -> None:
    nodes = "a = ConvTranspose <pads = [1, 1, 1, 1]> (x, w) z = Conv <pads = [1, 1, 1, 1]> (a, v)"
    artifact, _ = export(tmp_path, nodes)
    assert [layer.op_type for layer in artifact.layers] == ["Conv"]
    assert any("1 ConvTranspose stay" in note for note in artifact.notes)
    artifact, _ = export(tmp_path, nodes, every_layer=True)
    assert len(artifact.layers) == 2
    alone = write(tmp_path / "a.onnx", "z = ConvTranspose <pads = [1, 1, 1, 1]> (x, w)")
    with pytest.raises(InputError, match="--every-layer"):
        int8.export(alone, tmp_path / "q.onnx", data=data())


def test_bodies_stay_in_float32(tmp_path: Path) -> None:
    body = "t () => (float[N, 4, 9, 8] k) {{ k = {} (a) }}"
    branches = f"then_branch = {body.format('Neg')}, else_branch = {body.format('Abs')}"
    nodes = (
        "a = Conv <pads = [1, 1, 1, 1]> (x, w) s = ReduceSum <keepdims = 0> (x)"
        f" p = Greater (s, far) i = If (p) <{branches}> z = Conv <pads = [1, 1, 1, 1]> (i, v)"
    )
    artifact, model = export(tmp_path, nodes)
    assert artifact.validation.passed
    assert [layer.op_type for layer in artifact.layers] == ["Conv", "Conv"]
    [branch] = [n for n in model.graph if n.op_type == "If"]
    inside = {n.op_type for _, body in files.bodies(branch) for n in body}
    assert inside == {"Neg", "Abs"}


def test_the_model_is_never_replaced(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx")
    before = path.read_bytes()
    with pytest.raises(InputError, match="never modified"):
        int8.export(path, path, data=data())
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("depthwise_separable_conv", {"kernel_shape": 3}),
        ("dilated_conv", {"kernel_shape": 3, "rate": 2}),
        ("upsample_conv", {"kernel_shape": 3, "scale": 2}),
        ("conv_transpose", {"kernel_shape": 4, "strides": 2}),
    ],
)
def test_layers_of_this_package(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    model = catalog.build(name, input_shape=(1, 8, 16, 16), channels=8, **options)
    files.save(model, tmp_path / "m.onnx")
    [value] = model.graph.inputs
    artifact = int8.export(
        tmp_path / "m.onnx",
        tmp_path / "q.onnx",
        data={value.name: uniform(24, 8, 16, 16)},
        every_layer=True,
    )
    assert artifact.validation.passed
    assert not kept(artifact)


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export(tmp_path, calibration="percentile")
    assert capfd.readouterr() == ("", "")


def test_a_failing_measurement_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = dataclasses.replace(timed(2), failures={"int8": "it crashed"})
    monkeypatch.setattr(int8, "measure", lambda *_, **__: failed)
    with pytest.raises(CheckError, match="it crashed"):
        export(tmp_path)
    assert not (tmp_path / "q.onnx").exists()


def lines(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Lines of text as PP-OCR's classifier takes them, every second one upside down."""
    rng = np.random.default_rng(0)
    font = ImageFont.load_default(size=30)
    words = ["separable", "kernel", "stride", "padding", "quartz", "invoice", "2026", "Zebra"]
    pictures = []
    for index in range(number):
        picture = Image.new("RGB", (192, 48), (245, 245, 240))
        text = " ".join(rng.choice(words, 2))
        ImageDraw.Draw(picture).text((4, 6), text, (20, 20, 40), font)
        turned = picture.rotate(180) if index % 2 else picture
        pictures.append(np.asarray(turned, np.float32)[..., ::-1] / 127.5 - 1)
    return np.stack(pictures).transpose(0, 3, 1, 2), np.arange(number) % 2


@pytest.mark.long
def test_a_trained_classifier_still_knows_which_way_is_up(tmp_path: Path) -> None:
    try:
        source = model_path("ppocr_cls")
    except Unavailable as error:
        pytest.skip(str(error))
    x, labels = lines(64)
    given = {"x": np.ascontiguousarray(x), "labels": labels}
    artifact = int8.export(source, tmp_path / "q.onnx", data=given, metric="top1", max_drop=0.1)
    [note] = [note for note in artifact.notes if note.startswith("top1")]
    after, before = (float(part.split()[-1]) for part in note.split(" in ")[0].split(", "))
    assert before >= 0.9
    assert after >= before - 0.1
    assert sum(not layer.kept for layer in artifact.layers) > 100
