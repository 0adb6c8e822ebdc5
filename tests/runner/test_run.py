"""A model run on folders: nothing lost, nothing twice, nothing of another run, nothing half."""

from __future__ import annotations

import csv
import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.records import FileFailure, Run
from advconv_onnx.runner import job, pictures
from advconv_onnx.runner.run import run
from advconv_onnx.runner.session import Session

from .models import CLASSIFIER, SEGMENTER, noise, results, write, write_pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "m.onnx")
    write(tmp_path / "masks.onnx", SEGMENTER)
    write_pictures(tmp_path / "in", 9)
    return tmp_path


def there(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_npz_mirrors_the_folder(folder: Path) -> None:
    Image.fromarray(noise(8, 8)).save(folder / "in/000.bmp")
    np.save(folder / "in/000.npy", np.ones((3, 8, 8), np.float32))
    found = run(folder / "m.onnx", [folder / "in"], folder / "out")
    sources = there(folder / "in")
    assert there(folder / "out") == {f"{name}.npz" for name in sources} | {"run.json"}
    assert (found.written, found.kept, found.failures) == (11, 0, ())
    assert found.latency is not None
    session = Session(folder / "m.onnx")
    for name, outputs in results(folder / "out").items():
        [(_, want)] = session.run_files([folder / "in" / name.removesuffix(".npz")])
        assert isinstance(want, dict)
        np.testing.assert_array_equal(outputs["y"], want["y"])


def test_labels(folder: Path) -> None:
    (folder / "names").write_text("ant\nbee\ncat, or so\ndog\nelk\n")
    run(
        folder / "m.onnx", [folder / "in"], folder / "out", form="labels", top=2, batch=4,
        labels=folder / "names",
    )  # fmt: skip
    rows = table(folder / "out")
    assert sorted(row["path"] for row in rows) == sorted(there(folder / "in"))
    names = (folder / "names").read_text().splitlines()
    for row in rows:
        [(_, outputs)] = Session(folder / "m.onnx").run_files([folder / "in" / row["path"]])
        assert isinstance(outputs, dict)
        values = outputs["y"].ravel().astype(np.float64)
        soft = np.exp(values) / np.exp(values).sum()
        best = [names[index] for index in np.argsort(-soft)]
        assert [row["label"], row["label_2"]] == best[:2]
        shown = [float(row["probability"]), float(row["probability_2"])]
        np.testing.assert_allclose(shown, np.sort(soft)[::-1][:2], rtol=1e-5)


def test_masks(folder: Path) -> None:
    Image.fromarray(noise(48, 32)).save(folder / "in/large.png")
    how = {"resize": (24, 32)}
    run(folder / "masks.onnx", [folder / "in"], folder / "out", form="masks", preprocessing=how)
    session = Session(folder / "masks.onnx", preprocessing=how)
    for name in there(folder / "in"):
        with Image.open(folder / "in" / name) as picture:
            size = picture.size
        [(_, outputs)] = session.run_files([folder / "in" / name])
        assert isinstance(outputs, dict)
        small = Image.fromarray(outputs["y"][0].argmax(0).astype(np.uint8))
        expected = small.resize(size, Image.Resampling.NEAREST)
        with Image.open(folder / "out" / f"{name}.png") as found:
            np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_masks_of_arrays_are_as_large_as_these(folder: Path) -> None:
    np.save(folder / "a.npy", np.zeros((1, 3, 6, 7), np.float32))
    run(folder / "masks.onnx", [folder / "a.npy"], folder / "out", form="masks")
    with Image.open(folder / "out/a.npy.png") as found:
        assert found.size == (7, 6)


def test_what_is_bad_is_told_and_the_rest_is_done(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "in/bad.png").write_text("no picture")
    told: list[FileFailure] = []
    found = run(folder / "m.onnx", [folder / "in"], folder / "out", failed=told.append)
    assert found.written == 9
    assert tuple(told) == found.failures
    assert [failure.path for failure in told] == [str(folder / "in/bad.png")]
    # Next time only it is tried.
    Image.fromarray(noise(8, 8)).save(folder / "in/bad.png")
    again = run(folder / "m.onnx", [folder / "in"], folder / "out")
    assert (again.written, again.kept, again.failures) == (1, 9, ())


@pytest.mark.parametrize("form", ["npz", "labels"])
def test_nothing_is_done_twice(folder: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    calls: list[tuple[int, int]] = []

    def run_all() -> Run:
        return run(
            folder / "m.onnx",
            [folder / "in"],
            folder / "out",
            form=form,
            progress=lambda done, total: calls.append((done, total)),
        )

    first = run_all()
    assert calls[-1] == (9, 9)
    before = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*.*")}
    monkeypatch.setattr(Session, "batches", lambda self, sources: iter(list(sources)))
    second = run_all()
    assert (first.written, second.written, second.kept) == (9, 0, 9)
    assert {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*.*")} == before


def test_results_of_another_run_are_never_taken(folder: Path) -> None:
    run(folder / "m.onnx", [folder / "in"], folder / "out")
    write(folder / "other.onnx", CLASSIFIER.replace("[1, 1, 1, 1]", "[0, 0, 0, 0]"))
    write_pictures(folder / "in2", 2)
    calls: dict[str, tuple[str, str, dict[str, Any]]] = {
        "another model;": ("other.onnx", "in", {}),
        "another preprocessing;": ("m.onnx", "in", {"preprocessing": {"mean": (0.5,)}}),
        "another folder of the inputs;": ("m.onnx", "in2", {}),
        "another --as": ("m.onnx", "in", {"form": "labels"}),
    }
    for message, (model, paths, options) in calls.items():
        with pytest.raises(InputError, match=message):
            run(folder / model, [folder / paths], folder / "out", **options)
    assert len(there(folder / "out")) == 10


def test_the_same_results_whatever_the_batch_and_the_threads(folder: Path) -> None:
    run(folder / "m.onnx", [folder / "in"], folder / "out", batch=4)
    assert run(folder / "m.onnx", [folder / "in"], folder / "out", threads=1).kept == 9


def test_a_folder_with_something_else_is_left_alone(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out/notes.txt").touch()
    with pytest.raises(InputError, match="holds something else"):
        run(folder / "m.onnx", [folder / "in"], folder / "out")
    assert there(folder / "out") == {"notes.txt"}


def test_without_results_there_is_no_folder(folder: Path) -> None:
    (folder / "bad.png").touch()
    found = run(folder / "m.onnx", [folder / "bad.png"], folder / "out")
    assert len(found.failures) == 1
    assert not (folder / "out").exists()
    for form, message in (("labels", "no output has a row"), ("boxes", "--as 'boxes' is unknown")):
        with pytest.raises(InputError, match=message):
            run(folder / "masks.onnx", [folder / "in"], folder / "out", form=form)
        assert not (folder / "out").exists()


def test_wrong_calls(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "names").write_text("ant\nbee\n")
    (folder / "text.onnx").write_text("no model")
    calls: dict[str, tuple[str, str, dict[str, Any]]] = {
        "no pictures, .npy or .npz files are there": ("m.onnx", "empty", {}),
        "--top 0 is too few": ("m.onnx", "in", {"top": 0}),
        "'.*nowhere' does not exist": ("m.onnx", "nowhere", {}),
        "is no ONNX model": ("text.onnx", "in", {}),
        "there are 2 labels, the model has 5 classes": (
            "m.onnx", "in", {"form": "labels", "labels": folder / "names"},
        ),
        "cannot read '.*none'": ("m.onnx", "in", {"labels": folder / "none"}),
    }  # fmt: skip
    for message, (model, paths, options) in calls.items():
        with pytest.raises(InputError, match=message):
            run(folder / model, [folder / paths], folder / "out", **options)
        assert not (folder / "out").exists()


def test_the_results_in_the_folder_of_the_inputs(folder: Path) -> None:
    for _ in range(2):
        found = run(folder / "m.onnx", [folder / "in"], folder / "in/results")
        assert found.written + found.kept == 9
    with pytest.raises(InputError, match="is in the folder of the results"):
        run(folder / "m.onnx", [folder / "in"], folder / "in")


def test_two_runs_at_once(folder: Path) -> None:
    def second(done: int, total: int) -> None:
        with pytest.raises(InputError, match="another run is writing to"):
            run(folder / "m.onnx", [folder / "in"], folder / "out")

    assert run(folder / "m.onnx", [folder / "in"], folder / "out", progress=second).written == 9


def test_a_full_disk_stops_the_run_and_the_next_one_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush, left = os.fsync, 4

    def full(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(descriptor)

    # A run begins with its record, which is flushed too.
    for form in ("npz", "labels"):
        left = 5
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="No space left on device; what is written stays"):
            run(folder / "m.onnx", [folder / "in"], folder / form, form=form)
        monkeypatch.setattr(os, "fsync", flush)
        found = run(folder / "m.onnx", [folder / "in"], folder / form, form=form)
        assert 0 < found.kept < 9
        assert found.written + found.kept == 9
        assert not (folder / form / job.STAGING).exists()
    assert len(results(folder / "npz")) == 9
    assert sorted(row["path"] for row in table(folder / "labels")) == sorted(there(folder / "in"))


def test_a_result_has_its_name_when_it_is_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        assert results(self.parent.parent) == {}
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(InputError, match="Input/output error"):
        run(folder / "m.onnx", [folder / "in"], folder / "out")
    assert not list((folder / "out").rglob("*.npz"))


def test_more_classes_asked_for_than_there_are(folder: Path) -> None:
    run(folder / "m.onnx", [folder / "in"], folder / "out", form="labels", top=7)
    for row in table(folder / "out"):
        assert {row[f"label_{rank}"] for rank in range(2, 6)} | {row["label"]} == set("01234")
        assert (row["label_6"], row["probability_7"]) == ("", "")


def test_without_pillow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "Image", None)
    np.save(folder / "a.npy", np.zeros((1, 3, 6, 7), np.float32))
    assert run(folder / "m.onnx", [folder / "a.npy"], folder / "out").written == 1
    for form, paths in (("npz", "in"), ("masks", "a.npy")):
        with pytest.raises(Exception, match=r"pip install 'advconv-onnx\[images\]'"):
            run(folder / "masks.onnx", [folder / paths], folder / "none", form=form)
        assert not (folder / "none").exists()


def test_a_damaged_record(folder: Path) -> None:
    run(folder / "m.onnx", [folder / "in"], folder / "out")
    for text in ("{", "[]"):
        (folder / "out/run.json").write_text(text)
        with pytest.raises(InputError, match=r"run\.json' is damaged"):
            run(folder / "m.onnx", [folder / "in"], folder / "out")


def test_nan_is_told_where_a_class_is_asked_for(folder: Path) -> None:
    np.save(folder / "a.npy", np.full((1, 3, 6, 7), np.nan, np.float32))
    found = run(folder / "m.onnx", [folder / "a.npy"], folder / "out", form="labels")
    assert found.failures == (FileFailure(str(folder / "a.npy"), "the output has NaN"),)
    assert run(folder / "m.onnx", [folder / "a.npy"], folder / "npz").written == 1


def test_the_record_is_json(folder: Path) -> None:
    run(folder / "m.onnx", [folder / "in"], folder / "out")
    record = json.loads((folder / "out/run.json").read_text())
    assert record["preprocessing"]["channels"] == "RGB"


def test_a_model_that_does_not_load(folder: Path) -> None:
    write(folder / "new.onnx", CLASSIFIER.replace("17", "24"))
    changed = (folder / "new.onnx").read_bytes().replace(b"GlobalAveragePool", b"GlobalAveragePoof")
    (folder / "new.onnx").write_bytes(changed)
    with pytest.raises(CheckError, match="ONNX Runtime does not load it"):
        run(folder / "new.onnx", [folder / "in"], folder / "out")
