"""Bundles: whole where they arrive, proved again, and nothing that was tampered with is run."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from advconv_onnx import model as files
from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.exporters import bundle as module
from advconv_onnx.exporters import bundle_check
from advconv_onnx.exporters.bundle import export
from advconv_onnx.exporters.bundle_check import check
from advconv_onnx.preprocessing import Preprocessing
from advconv_onnx.runner.session import Session
from tests.parsing import normal, parse

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 3, H, 8] x) => (float[N, 4, P, 8] y, int64[N, P, 8] best) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w)
        y = Relu (a)
        best = ArgMax <axis = 1, keepdims = 0> (y)
    }"""


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.01)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    files.save(parse(TEXT, w=normal(4, 3, 3, 3)), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    (tmp_path / "labels").write_text("cat\ndog\nowl\nelk\n")
    export(model, tmp_path / "bundle", labels=tmp_path / "labels")
    return tmp_path / "bundle"


@pytest.fixture
def packed(model: Path, tmp_path: Path) -> Path:
    export(model, tmp_path / "bundle.zip")
    return tmp_path / "bundle.zip"


def test_a_folder_with_all_that_belongs_to_the_model(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert there == {*manifest["files"], "manifest.json"}
    assert {"model.onnx", "labels.txt", "samples/0.npz"} <= there
    assert manifest["inputs"] == [
        {"name": "x", "type": "float", "shape": ["N", 3, "H", 8], "layout": "NCHW"}
    ]
    assert [value["name"] for value in manifest["outputs"]] == ["y", "best"]
    assert manifest["latency_ms"]["median"] > 0
    assert manifest["device"]["processor"]
    assert manifest["versions"]["onnxruntime"]


def test_pre_processing_is_kept(model: Path, tmp_path: Path) -> None:
    how = Preprocessing(resize=256, crop=(8, 8), mean=(0.1, 0.2, 0.3), channels="BGR")
    export(model, tmp_path / "b", preprocessing=how)
    kept = json.loads((tmp_path / "b" / "manifest.json").read_text())["preprocessing"]
    assert Preprocessing.from_mapping(kept) == how
    assert Session(tmp_path / "b").preprocessing == how


def test_pre_processing_must_fit_the_input(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="means 3 channels, L has 1"):
        export(model, tmp_path / "b", preprocessing={"channels": "L"})
    assert not (tmp_path / "b").exists()
    both = parse(TEXT.replace("x) =>", "x, float u) =>"), w=normal(4, 3, 3, 3))
    files.save(both, tmp_path / "two.onnx")
    with pytest.raises(InputError, match="the model has 2 inputs"):
        export(tmp_path / "two.onnx", tmp_path / "b", preprocessing={"mean": (0.5,)})


def test_a_report_belongs_to_the_model(model: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"optimized": {"sha256": files.sha256(model)}}))
    assert len(export(model, tmp_path / "one", report=report).notes) == 1
    report.write_text(json.dumps({"optimized": {"sha256": "0" * 64}}))
    assert "about another file" in export(model, tmp_path / "two", report=report).notes[1]
    report.write_text("[]")
    with pytest.raises(InputError, match="no report of a model"):
        export(model, tmp_path / "three", report=report)
    assert not (tmp_path / "three").exists()


@pytest.mark.parametrize(
    ("content", "message"), [(b"\xff\n", "no text in UTF-8"), (b"cat\n", "has 1 lines")]
)
def test_labels_belong_to_the_model(tmp_path: Path, content: bytes, message: str) -> None:
    text = TEXT.replace(", int64[N, P, 8] best", "")
    text = text.replace("best = ArgMax <axis = 1, keepdims = 0> (y)", "")
    files.save(parse(text, w=normal(4, 3, 3, 3)), tmp_path / "m.onnx")
    labels = tmp_path / "labels"
    labels.write_bytes(content)
    with pytest.raises(InputError, match=message):
        export(tmp_path / "m.onnx", tmp_path / "b", labels=labels)
    assert not (tmp_path / "b").exists()


def test_samples_are_what_float64_makes_of_them(folder: Path, model: Path) -> None:
    with np.load(folder / "samples" / "0.npz") as arrays:
        x, y = arrays["input_0"], arrays["output_0"]
        assert arrays["output_1"].dtype == np.int64
    evaluator = onnx.reference.ReferenceEvaluator(onnx.load(model))
    want, _ = evaluator.run(None, {"x": x})
    np.testing.assert_allclose(y, want, atol=1e-5)
    assert np.ptp(y) > 1


@pytest.mark.parametrize("kind", ["folder", "packed"])
def test_it_is_proved_again(kind: str, request: pytest.FixtureRequest) -> None:
    found = check(request.getfixturevalue(kind))
    assert found.passed
    assert [each.tensor for each in found.checks] == ["y", "best"]
    assert 0 < found.max_relative < 1e-6
    assert found.inputs == 4


def test_external_weights_come_along(model: Path, tmp_path: Path) -> None:
    onnx.save(
        onnx.load(model), tmp_path / "e.onnx", save_as_external_data=True, size_threshold=0,
        location="weights",
    )  # fmt: skip
    export(tmp_path / "e.onnx", tmp_path / "bundle.zip")
    assert check(tmp_path / "bundle.zip").passed


def test_another_computation_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = bundle_check.run_session
    monkeypatch.setattr(
        bundle_check, "run_session", lambda s, x: {n: y + (y > 1) for n, y in run(s, x).items()}
    )
    found = check(folder)
    assert not found.passed
    assert found.max_relative > 1e-2


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def relink(path: Path) -> None:
    outside = next(
        parent
        for parent in path.parents
        if not (parent / "manifest.json").exists() and parent.name != "samples"
    )
    moved = path.rename(outside / "elsewhere")
    path.symlink_to(moved)


@pytest.mark.parametrize("name", ["model.onnx", "labels.txt", "samples/0.npz"])
@pytest.mark.parametrize("tamper", [append, flip, Path.unlink, relink])
def test_tampering_with_a_file(folder: Path, name: str, tamper: Callable[[Path], Any]) -> None:
    tamper(folder / name)
    with pytest.raises(CheckError, match=name):
        check(folder)


def test_an_added_file(folder: Path) -> None:
    (folder / "samples" / "9.npz").write_bytes(b"")
    with pytest.raises(CheckError, match=r"samples/9\.npz' was added"):
        check(folder)


def repacked(packed: Path, change: Callable[[dict[str, bytes]], Any]) -> Path:
    """The same bundle with other contents."""
    with zipfile.ZipFile(packed) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    change(contents)
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return packed


@pytest.mark.parametrize(
    "name", ["../evil", "/tmp/evil", "a/../../evil", "..\\evil", "C:evil", "samples//evil", "a/./b"]
)
def test_names_that_lead_out_of_a_zip(packed: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no name of a file"):
        check(repacked(packed, lambda contents: contents.update({name: b"evil"})))
    assert not list(tmp_path.parent.glob("evil"))
    assert not Path("/tmp/evil").exists()


def test_names_in_the_manifest_that_lead_out(packed: Path) -> None:
    def lead_out(contents: dict[str, bytes]) -> None:
        manifest = json.loads(contents["manifest.json"])
        manifest["files"]["../evil"] = {"bytes": 4, "sha256": "0"}
        contents["manifest.json"] = json.dumps(manifest).encode()

    with pytest.raises(InputError, match="damaged"):
        check(repacked(packed, lead_out))


def test_a_link_in_a_zip(packed: Path) -> None:
    with zipfile.ZipFile(packed, "a") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(InputError, match="is a link"):
        check(packed)


def test_tampering_with_a_zip(packed: Path) -> None:
    with pytest.raises(CheckError, match=r"model\.onnx' was changed"):
        check(repacked(packed, lambda contents: contents.update({"model.onnx": b"evil"})))


def test_an_added_file_in_a_zip(packed: Path) -> None:
    with pytest.raises(CheckError, match="'more' was added"):
        check(repacked(packed, lambda contents: contents.update({"more": b"evil"})))


def test_a_lost_file_in_a_zip(packed: Path) -> None:
    with pytest.raises(CheckError, match=r"samples/0\.npz' is missing"):
        check(repacked(packed, lambda contents: contents.pop("samples/0.npz")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b"[]", "damaged"),
        (b'{"schema": 1}', "damaged"),
        (b'{"schema": 99, "files": {}, "inputs": [], "outputs": [], "max_error": 1}', "newer"),
    ],
)
def test_a_damaged_manifest(folder: Path, content: bytes, message: str) -> None:
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        check(folder)


def test_what_is_no_bundle(tmp_path: Path, model: Path) -> None:
    (tmp_path / "text.zip").write_text("text")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a", "b")
    for path in (tmp_path, tmp_path / "text.zip", tmp_path / "other.zip", tmp_path / "none.zip"):
        with pytest.raises(InputError):
            check(path)


def test_an_existing_folder_is_kept(folder: Path, model: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="exists"):
        export(model, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
