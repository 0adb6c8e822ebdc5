"""The explaining sample as its reader runs it, for every layer of the package."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import explain_layer
import pytest

from advconv_onnx import catalog

LAYERS = [entry.name for entry in catalog.entries().values() if entry.kind == "layer"]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["explain_layer.py", *arguments])
    return explain_layer.main()


def test_as_a_reader_runs_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_sample: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    monkeypatch.chdir(tmp_path)
    run = run_sample("explain_layer.py")
    assert run.returncode == 0, run.stderr
    assert "9 taps cover 25 cells: an output pixel sees 5x5 input pixels" in run.stdout
    assert "9,248  dense        25,632  2.77x" in run.stdout
    assert "agrees exactly with the attributes" in run.stdout
    assert (tmp_path / "demo" / "dilated_conv.svg").exists()


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_has_usual_options(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, name) == 0
    assert capsys.readouterr().out.count("agrees") == len(list(tmp_path.glob("demo/*.svg"))) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["conv2d"], "'conv2d' is no layer"),
        (["unet"], "unet is a network"),
        (["conv", "--channels", "x"], "channels"),
    ],
)
def test_a_wrong_call_is_one_line(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, *arguments) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert len(err.splitlines()) == 1
    assert out == ""
