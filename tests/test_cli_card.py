"""Cards from the command line."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from advconv_onnx.cli import main
from advconv_onnx.runtime import impulses

from .parsing import normal, parse


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a model."""
    monkeypatch.chdir(tmp_path)
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,3,H,W] x) => (float[] y) '
        "{ [first] a = Conv(x, w) [second] b = Conv<dilations=[2, 2]>(a, w) y = Relu(b) }",
        w=normal(3, 3, 3, 3),
    )
    onnx.save(ir.to_proto(model), "model.onnx")
    return tmp_path


@pytest.mark.parametrize(("file", "start"), [("c.svg", b"<?xml"), ("c.png", b"\x89PNG")])
def test_a_card_is_written(file: str, start: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    call = f"inspect model.onnx --card second --input x=1x3x32x32 -o {file}"
    assert main(shlex.split(call)) == 0
    assert capfd.readouterr() == (
        f"ONNX Runtime does with 'second' what its attributes say; drawn in {file}\n", ""
    )  # fmt: skip
    assert Path(file).read_bytes().startswith(start)
    assert sorted(os.listdir()) == [file, "model.onnx"]


def test_the_model_is_never_replaced(capfd: pytest.CaptureFixture[str]) -> None:
    before = Path("model.onnx").read_bytes()
    Path("card.svg").symlink_to("model.onnx")
    assert main(shlex.split("inspect model.onnx --card second -o card.svg")) == 2
    assert "is an input, which is never modified" in capfd.readouterr().err
    assert Path("model.onnx").read_bytes() == before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("--card second", "needs --card NODE and -o FILE"),
        ("-o c.svg", "needs --card NODE and -o FILE"),
        ("--card second -o c.svg --json", "is no JSON"),
        ("--card second -o c.pdf", "-o 'c.pdf': a card is drawn as .svg or .png"),
        ("--card secnd -o c.svg", "'secnd'; did you mean 'second'?"),
        ("--card second -o no/c.svg", "cannot write 'no/c.svg'"),
        ("--card second -o c.svg --input z=1", "no such input"),
    ],
)
def test_a_wrong_call_is_one_line(
    call: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", "model.onnx", *shlex.split(call)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1
    assert os.listdir() == ["model.onnx"]


def test_a_difference_is_a_failed_check(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As if ONNX Runtime had a kernel that is one pixel off."""
    run = impulses.run_session

    def shifted(session: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.roll(y, 1, axis=3) for name, y in run(session, inputs).items()}

    monkeypatch.setattr(impulses, "run_session", shifted)
    assert main(shlex.split("inspect model.onnx --card second -o c.svg")) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "layer 'second': in ONNX Runtime output pixel 0 of spatial axis 1 takes" in err
    assert os.listdir() == ["model.onnx"]
