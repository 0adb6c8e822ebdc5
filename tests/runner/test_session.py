"""Sessions for one's own code: equal to ONNX Runtime alone, in batches of any kind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

import advconv_onnx
from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.exporters import bundle as exporter
from advconv_onnx.exporters.ort_format import export as export_ort
from advconv_onnx.preprocessing import Preprocessing
from advconv_onnx.runner.session import Session
from tests.parsing import normal

from .models import CLASSIFIER, COUNT, PIXELS, SUM, noise, write, write_pictures


def expected(model: Path, path: Path) -> np.ndarray:
    """What ONNX Runtime makes of a picture, prepared here."""
    with Image.open(path) as picture:
        x = np.asarray(picture).transpose(2, 0, 1)[None] * np.float32(1 / 255)
    result: np.ndarray = ort.InferenceSession(model).run(None, {"x": x})[0]
    return result


def test_arrays(tmp_path: Path) -> None:
    session = advconv_onnx.Session(write(tmp_path / "m.onnx"))
    x = normal(2, 3, 8, 9)
    want = ort.InferenceSession(tmp_path / "m.onnx").run(None, {"x": x})[0]
    np.testing.assert_array_equal(session(x)["y"], want)
    np.testing.assert_array_equal(session({"x": x.astype(np.float64)})["y"], want)
    assert session(x[0])["y"].shape == (1, 5, 1, 1)
    with pytest.raises(InputError, match="does not fit input 'x'"):
        session(x[0, 0])
    with pytest.raises(InputError, match="given for z; the model takes x"):
        session({"z": x})


def test_several_inputs(tmp_path: Path) -> None:
    session = Session(write(tmp_path / "m.onnx", SUM))
    np.testing.assert_array_equal(
        session({"a": np.ones((1, 2)), "b": np.ones(2)})["file"], [[2, 2]]
    )
    with pytest.raises(InputError, match="the model has inputs a, b"):
        session(normal(1, 2))
    np.savez(tmp_path / "one.npz", a=normal(1, 2), b=normal(1, 2))
    [(_, outputs)] = session.run_files([tmp_path / "one.npz"])
    assert isinstance(outputs, dict)
    np.testing.assert_array_equal(outputs["file"], 2 * normal(1, 2))
    with pytest.raises(InputError, match="--batch 2: the model has several inputs"):
        Session(tmp_path / "m.onnx", batch=2)


@pytest.mark.parametrize(
    ("fixed", "batch"), [({}, 1), ({}, 4), ({"N": "1"}, None), ({"N": "4"}, None)]
)
def test_files_in_batches(tmp_path: Path, fixed: dict[str, str], batch: int | None) -> None:
    paths = write_pictures(tmp_path / "in", 7) + write_pictures(tmp_path / "wide", 6, size=(9, 20))
    alone = write(tmp_path / "alone.onnx")
    session = Session(write(tmp_path / "m.onnx", **fixed), batch=batch)
    assert session.batch == (batch or int(fixed["N"]))
    order = [paths[i] for i in np.random.default_rng(0).permutation(len(paths))]
    found = dict(session.run_files(order))
    assert found.keys() == set(paths)
    for path, outputs in found.items():
        assert isinstance(outputs, dict)
        np.testing.assert_allclose(outputs["y"], expected(alone, path), rtol=1e-5)


def test_few_files_are_in_memory_whatever_their_sizes(tmp_path: Path) -> None:
    paths = [write_pictures(tmp_path / f"{side}", 1, size=(side, 9))[0] for side in range(3, 40)]
    taken = 0

    def take() -> Iterator[Path]:
        nonlocal taken
        for taken, path in enumerate(paths, 1):  # noqa: B007 (counted for the outside)
            yield path

    found = Session(write(tmp_path / "m.onnx"), batch=2).run_files(take())
    for done, _ in enumerate(found):
        assert taken - done <= 4 * 2 + 2 + 2
    assert done == len(paths) - 1


def test_files_with_a_batch_of_their_own(tmp_path: Path) -> None:
    x = normal(6, 3, 8, 8)
    for number, rows in enumerate((1, 2, 2, 1)):
        np.save(tmp_path / f"{number}.npy", x[number : number + rows])
    session = Session(write(tmp_path / "m.onnx"), batch=4)
    found = dict(session.run_files(tmp_path / f"{number}.npy" for number in range(4)))
    want = session(x)["y"]
    for number, rows in enumerate((1, 2, 2, 1)):
        outputs = found[tmp_path / f"{number}.npy"]
        assert isinstance(outputs, dict)
        np.testing.assert_allclose(outputs["y"], want[number : number + rows], rtol=1e-5)
    fixed = Session(write(tmp_path / "two.onnx", N="2"))
    [(_, whole)] = fixed.run_files([tmp_path / "1.npy"])
    assert isinstance(whole, dict)
    np.testing.assert_allclose(whole["y"], want[1:3], rtol=1e-5)


def test_what_is_bad_is_told_and_the_rest_is_done(tmp_path: Path) -> None:
    good = write_pictures(tmp_path / "in", 5)
    (tmp_path / "bad.png").write_text("no picture")
    np.save(tmp_path / "tiny.npy", np.zeros((1, 3, 0, 0), np.float32))
    session = Session(
        write(tmp_path / "m.onnx", CLASSIFIER.replace("<pads = [1, 1, 1, 1]>", "")), batch=4
    )
    order = [*good[:2], tmp_path / "bad.png", tmp_path / "tiny.npy", *good[2:]]
    found = dict(session.run_files(order))
    assert isinstance(found[tmp_path / "bad.png"], InputError)
    assert isinstance(found[tmp_path / "tiny.npy"], CheckError)
    assert all(isinstance(found[path], dict) for path in good)


def test_one_that_does_not_run_takes_no_others_of_its_batch_with_it(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (int64[N, 1] i) => (float[N, 1] y) {
            t = Constant <value = float[3] {5, 6, 7}> ()
            y = Gather (t, i)
        }"""
    session = Session(write(tmp_path / "m.onnx", text), batch=4)
    for number, index in enumerate((0, 1, 99, 2)):
        np.save(tmp_path / f"{number}.npy", np.array([[index]]))
    found = [outputs for _, outputs in session.run_files(sorted(tmp_path.glob("*.npy")))]
    assert isinstance(found[2], CheckError)
    assert [o["y"].item() for o in found if isinstance(o, dict)] == [5, 6, 7]


def test_outputs_without_the_batch_cannot_be_told_apart(tmp_path: Path) -> None:
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", normal(1, 2))
    paths = sorted(tmp_path.glob("*.npy"))
    session = Session(write(tmp_path / "m.onnx", COUNT), batch=3)
    with pytest.raises(InputError, match=r"output 'y' has the shape 2 for a batch of 3"):
        list(session.run_files(paths))
    assert len(list(Session(tmp_path / "m.onnx").run_files(paths))) == 3


def test_pixels_as_they_are(tmp_path: Path) -> None:
    [path] = write_pictures(tmp_path / "in", 1)
    session = Session(write(tmp_path / "m.onnx", PIXELS))
    [(_, outputs)] = session.run_files([path])
    assert isinstance(outputs, dict)
    np.testing.assert_array_equal(outputs["y"][0], noise(12, 16))
    with pytest.raises(InputError, match="takes pixels as they are"):
        Session(tmp_path / "m.onnx", preprocessing={"mean": (0.5,)})


@pytest.mark.parametrize("name", ["bundle", "bundle.zip"])
def test_bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(exporter, "_SECONDS", 0.01)
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\nd\ne\n")
    how = Preprocessing(resize=(8, 8), mean=(0.5,), channels="BGR")
    model = write(tmp_path / "m.onnx")
    exporter.export(model, tmp_path / name, preprocessing=how, labels=labels)
    session = Session(tmp_path / name)
    assert (session.preprocessing, session.labels) == (how, tuple("abcde"))
    changed = Session(tmp_path / name, preprocessing={"resize": 16})
    assert changed.preprocessing == Preprocessing(resize=16, mean=(0.5,), channels="BGR")
    assert Session(tmp_path / name, preprocessing=Preprocessing()).preprocessing == Preprocessing()
    x = normal(1, 3, 8, 8)
    np.testing.assert_array_equal(session(x)["y"], Session(model)(x)["y"])
    if name == "bundle":
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        (tmp_path / name / "labels.txt").write_text("x\n" * 5)
        assert "labels.txt" in manifest["files"]
        with pytest.raises(CheckError, match=r"labels\.txt"):
            Session(tmp_path / name)


def test_onnxruntimes_format(tmp_path: Path) -> None:
    export_ort(write(tmp_path / "m.onnx"), tmp_path / "m.ort")
    x = normal(1, 3, 8, 8)
    np.testing.assert_allclose(
        Session(tmp_path / "m.ort")(x)["y"], Session(tmp_path / "m.onnx")(x)["y"], rtol=1e-5
    )
    assert Session(tmp_path / "m.ort").digest != Session(tmp_path / "m.onnx").digest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "--batch 0 is too few"),
        ({"batch": 2}, "the batch of input 'x', .* is fixed; use --batch 1"),
        ({"provider": "abacus"}, "provider 'abacus' is unknown"),
        ({"preprocessing": {"resize": 32}}, "give --crop 12x16"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    model = write(tmp_path / "m.onnx", N="1", H="12", W="16")
    with pytest.raises(InputError, match=message):
        Session(model, **options)


@pytest.mark.parametrize("name", ["gone.onnx", "gone.ort", "gone.zip", "text.onnx", "text.zip"])
def test_no_such_model(tmp_path: Path, name: str) -> None:
    if name.startswith("text"):
        (tmp_path / name).write_text("no model" * 99)
    with pytest.raises(InputError, match=name):
        Session(tmp_path / name)


def test_the_code_in_the_docs_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exporter, "_SECONDS", 0.01)
    document = Path(__file__).parents[2] / "docs/running.md"
    [code] = re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exporter.export(write(tmp_path / "m.onnx"), tmp_path / "net.zip")
    for name in ("cat.jpg", "dog.png"):
        Image.fromarray(noise(8, 8)).save(name)
    exec(code, {})
    first, second = capsys.readouterr().out.split("dog.png")
    assert first.startswith("cat.jpg {'y': array(")
    assert second.startswith(" {'y': array(")
