"""``advconv run`` as it is typed: results, messages, exit statuses, and what survives a kill."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advconv_onnx.cli import main
from advconv_onnx.runner.session import Session

from .parsing import normal
from .runner.models import CLASSIFIER, SEGMENTER, SUM, results, write, write_pictures

ADVCONV = Path(sysconfig.get_path("scripts"), "advconv")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with models and pictures."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "m.onnx")
    write(tmp_path / "masks.onnx", SEGMENTER)
    write(tmp_path / "sum.onnx", SUM)
    write_pictures(tmp_path / "in", 6)
    np.save("x.npy", normal(1, 3, 8, 8))
    np.savez("pair.npz", a=normal(1, 2), b=normal(1, 2, seed=1))
    (tmp_path / "names").write_text("ant\nbee\ncat\ndog\nelk\n")
    (tmp_path / "empty").mkdir()
    return tmp_path


def run(call: str, capfd: pytest.CaptureFixture[str], status: int = 0) -> tuple[str, str]:
    assert main(["run", *shlex.split(call)]) == status
    out, err = capfd.readouterr()
    return " ".join(out.split()), err


def test_once_on_an_array(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, err = run("m.onnx --input x=x.npy", capfd)
    expected = Session("m.onnx")(np.load("x.npy"))["y"]
    with np.load("outputs.npz") as arrays:
        np.testing.assert_array_equal(arrays["y"], expected)
    assert f"y float32 1x5x1x1 {expected.min():.6g} {expected.max():.6g}" in out
    assert "written outputs.npz" in out
    assert err == ""


def test_once_on_a_picture_with_labels(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call = "m.onnx --input x=in/000.png --labels names --top 2 -o o.npz --resize 8x8 --json -"
    document = json.loads(run(call, capfd)[0])
    assert len(document["labels"]) == 2
    assert document["labels"][0][0] in ("ant", "bee", "cat", "dog", "elk")
    assert document["outputs"][0]["shape"] == [1, 5, 1, 1]
    assert document["notes"] == ["pictures are resized to 8x8, RGB, times 0.00392157, NCHW"]
    assert Path("o.npz").exists()


def test_once_on_two_inputs(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run("sum.onnx --input a=pair.npz --input b=pair.npz -o o.npz --quiet", capfd)
    with np.load("pair.npz") as given, np.load("o.npz") as found:
        np.testing.assert_array_equal(found["file"], given["a"] + given["b"])


def test_a_folder(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, err = run("m.onnx in -o out --batch 4 --mean 0.5,0.4,0.3 --json r.json", capfd)
    assert "results 6 written speed" in out
    assert "for up to 4 files" in out
    assert err == ""
    assert len(results(Path("out"))) == 6
    document = json.loads(Path("r.json").read_text())
    assert (document["written"], document["batch"], document["failures"]) == (6, 4, [])
    assert document["per_second"] > 0
    out, _ = run("m.onnx in -o out --batch 4 --mean 0.5,0.4,0.3", capfd)
    assert "results 6 were there" in out


def test_what_is_left_out_is_told_and_is_status_1(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("in/bad.png").write_text("no picture")
    Path("in/bad.npy").write_text("no array")
    for quiet in ("", " --quiet"):
        out, err = run(f"m.onnx in -o out{quiet}", capfd, status=1)
        lines = err.splitlines()
        assert sorted(line.split("'")[1] for line in lines) == ["in/bad.npy", "in/bad.png"]
        assert all(line.startswith("advconv: left out: ") for line in lines)
    assert out == ""
    assert len(results(Path("out"))) == 6


def test_labels_and_masks(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run("m.onnx in -o labels --as labels --labels names --top 3", capfd)
    header, *lines = Path("labels/labels.csv").read_text().splitlines()
    assert header == "path,label,probability,label_2,probability_2,label_3,probability_3"
    assert [line.split(",")[0] for line in lines] == [
        "000.png", "002.png", "004.png", "more/001.png", "more/003.png", "more/005.png",
    ]  # fmt: skip
    run("masks.onnx in -o masks --as masks", capfd)
    with Image.open("masks/more/001.png.png") as mask, Image.open("in/more/001.png") as picture:
        assert (mask.size, mask.mode) == (picture.size, "P")


def test_a_bundle_brings_its_preprocessing_and_labels(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advconv_onnx.exporters.bundle._SECONDS", 0.01)
    call = "convert m.onnx --to bundle -o net.zip --labels names --resize 8x8 --mean 0.5 --std 0.25"
    assert main(shlex.split(call)) == 0
    run("net.zip in -o one --as labels", capfd)
    run("m.onnx in -o two --as labels --labels names --resize 8x8 --mean 0.5 --std 0.25", capfd)
    assert Path("one/labels.csv").read_text() == Path("two/labels.csv").read_text()


def test_a_local_cluster(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("in/bad.png").write_text("no picture")
    run("m.onnx in -o one --threads 1", capfd, status=1)
    out, err = run("m.onnx in -o two --workers 2", capfd, status=1)
    assert "2 workers" in out
    assert err.startswith("advconv: left out: cannot read ")
    assert contents(Path("one")) == contents(Path("two"))


CALLS = {
    "m.onnx": "give files or folders, or --input NAME=FILE",
    "m.onnx in -o out --input x=x.npy": "give files or folders, or --input NAME=FILE",
    "m.onnx in": "-o FOLDER is missing",
    "m.onnx --input x": "--input 'x' is not NAME=FILE",
    "m.onnx --input x=x.npy --input x=x.npy": "given twice",
    "m.onnx --input z=x.npy": "no such input; it has x",
    "m.onnx --input x=gone.npy": "cannot read 'gone.npy': No such file",
    "m.onnx --input x=pair.npz": "'pair.npz' has no array 'x'; it has a, b",
    "m.onnx --input x=names": "cannot read 'names' as a picture",
    "m.onnx --input x=x.npy -o x.npy": "'x.npy' is an input",
    "m.onnx --input x=x.npy -o m.onnx": "'m.onnx' is an input",
    "m.onnx --input x=x.npy -o no/o.npz": "cannot write 'no/o.npz'",
    "m.onnx --input x=x.npy --batch 2": "--batch: not with --input",
    "m.onnx --input x=x.npy --as masks": "--as: not with --input",
    "sum.onnx --input a=pair.npz": "given for a; the model takes a, b",
    "gone.onnx in -o out": "cannot read 'gone.onnx'",
    "empty in -o out": "no manifest.json",
    "m.onnx gone -o out": "'gone' does not exist",
    "m.onnx empty -o out": "'empty': no pictures, .npy or .npz files are there",
    "m.onnx in -o .": "is in the folder of the results",
    "m.onnx in -o names": "names': File exists",
    "m.onnx in -o no/out --as boxes": "--as 'boxes' is unknown",
    "m.onnx in -o out --batch 0": "--batch 0 is too few",
    "m.onnx in -o out --top 0": "--top 0 is too few",
    "m.onnx in -o out --resize big": "--resize 'big' is not",
    "m.onnx in -o out --layout NHWC": "give --layout NCHW",
    "m.onnx in -o out --channels L": "L has 1",
    "m.onnx in -o out --labels gone": "cannot read 'gone'",
    "m.onnx in -o out --as labels --labels in/000.png": "is no text in UTF-8",
    "masks.onnx in -o out --as labels": "no output has a row of classes",
    "m.onnx in -o out --as masks": "no output has a picture",
    "m.onnx in -o out --provider abacus": "provider 'abacus' is unknown",
    "m.onnx in -o out --json m.onnx": "would replace a model",
    "m.onnx in -o out --json names/r.json": "cannot write 'names/r.json'",
    "m.onnx in -o out --workers 0": "--workers 0: for --scheduler local",
    "m.onnx in -o out --workers 2 --scheduler tcp://x:1": "--workers 2: for --scheduler local",
    "m.onnx in -o out --scheduler nonsense": "no scheduler with a worker answers there",
}


@pytest.mark.parametrize("call", CALLS)
def test_wrong_calls(folder: Path, capfd: pytest.CaptureFixture[str], call: str) -> None:
    before = contents(folder)
    out, err = run(call, capfd, status=2)
    assert CALLS[call] in err
    assert (out, err.count("\n")) == ("", 1)
    assert contents(folder) == before


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, but what says whose results they are and where they came from."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != ".ses"
    }


def slow(folder: Path) -> None:
    """Make the model and the number of pictures such that a run takes a second."""
    pool = "MaxPool <kernel_shape = [9, 9], pads = [4, 4, 4, 4]>"
    pools = "".join(f"a{i + 1} = {pool} (a{i})\n" for i in range(9))
    text = CLASSIFIER.replace("a = Conv", "a0 = Conv").replace("y = Gl", f"{pools} y = Gl")
    write(folder / "slow.onnx", text.replace("(a)", "(a9)"))
    write_pictures(folder / "in", 200)


@pytest.mark.parametrize("form", ["npz", "labels"])
def test_killed_midway_it_goes_on_where_it_was(
    folder: Path, capfd: pytest.CaptureFixture[str], form: str
) -> None:
    slow(folder)
    run(f"slow.onnx in -o whole --as {form} --resize 40x40", capfd)
    call = [ADVCONV, "run", "slow.onnx", "in", "-o", "out", "--as", form, "--resize", "40x40"]
    process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while process.poll() is None and done(form) < 20:
        time.sleep(0.002)
    process.kill()
    assert process.communicate() == (b"", b"")
    kept = done(form)
    assert 20 <= kept < 200
    before = contents(Path("out"))
    report, _ = run(f"slow.onnx in -o out --as {form} --resize 40x40 --json -", capfd)
    document = json.loads(report)
    assert (document["kept"], document["written"]) == (kept, 200 - kept)
    after, whole = contents(Path("out")), contents(Path("whole"))
    assert after == whole
    if form == "npz":
        assert {k: v for k, v in before.items() if k.endswith(".npz")}.items() <= after.items()


def done(form: str) -> int:
    """How many results there are."""
    if form == "npz":
        return sum(name.endswith(".npz") for _, _, names in os.walk("out") for name in names)
    lines = Path("out/labels.csv")
    return max(0, lines.read_bytes().count(b"\n") - 1) if lines.exists() else 0


@pytest.mark.parametrize(
    ("number", "status", "options"),
    [(signal.SIGINT, 130, ""), (signal.SIGTERM, 143, ""), (signal.SIGINT, 130, "--workers 2")],
)
def test_interrupted_it_says_that_it_goes_on(
    folder: Path, number: signal.Signals, status: int, options: str
) -> None:
    slow(folder)
    call = [ADVCONV, "run", "slow.onnx", "in", "-o", "out", "--resize", "40x40", *options.split()]
    process = subprocess.Popen(
        call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while process.poll() is None and done("npz") < 20:
        time.sleep(0.002)
    # Python loses an interrupt that arrives in a callback of its own; then a user types it again.
    for _ in range(5):
        os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            out, err = process.communicate(timeout=5)
            break
    assert (process.returncode, out) == (status, "")
    assert err == ("advconv: interrupted; what is written stays, the same call goes on from it\n")
    assert 20 <= done("npz") < 200
    assert not list(Path("out").glob(".*"))
