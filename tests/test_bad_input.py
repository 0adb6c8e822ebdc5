"""Whatever is wrong with a call: one line, the right exit status, nothing written or changed."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shlex
import signal
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from advconv_onnx import cli
from advconv_onnx.cli import main

from .parsing import normal, parse

ADVCONV = Path(sysconfig.get_path("scripts"), "advconv")

CONV = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 3, H, W] x) => (float[N, 4, P, Q] y) { y = Conv(x, w) }"""
CUSTOM = """<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>
    g (float[N] x) => (float[N] y) { y = acme.Blur(x) }"""
INTEGERS = """<ir_version: 8, opset_import: ["" : 17]>
    g (int32[1, 3, 8, 8] x) => (int32[1, 3, 8, 8] y) { y = Celu(x) }"""

WEIGHT = normal(4, 3, 3, 3)
WITH_NAN = np.where(WEIGHT > 2, np.float32("nan"), WEIGHT)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: a model, everything that can be wrong with one, and wrong arrays."""
    model = ir.to_proto(parse(CONV, w=WEIGHT))
    whole = model.SerializeToString()
    (tmp_path / "good.onnx").write_bytes(whole)
    (tmp_path / "truncated.onnx").write_bytes(whole[:-150])
    (tmp_path / "text.onnx").write_text("no model at all\n" * 30)
    (tmp_path / "empty.onnx").write_bytes(b"")
    onnx.save(ir.to_proto(parse(CONV, w=WITH_NAN)), tmp_path / "nan.onnx")
    onnx.save(ir.to_proto(parse(CUSTOM)), tmp_path / "custom.onnx")
    onnx.save(ir.to_proto(parse(INTEGERS)), tmp_path / "integers.onnx")
    model.opset_import[0].version = 99
    (tmp_path / "future.onnx").write_bytes(model.SerializeToString())
    model.opset_import[0].version = 17
    for name, location in (("astray.onnx", "gone.bin"), ("split.onnx", "taken.onnx.data")):
        onnx.save(
            ir.to_proto(parse(CONV, w=WEIGHT)), tmp_path / name, save_as_external_data=True,
            location=location, size_threshold=0,
        )  # fmt: skip
    (tmp_path / "gone.bin").unlink()
    (tmp_path / "link.onnx").symlink_to("good.onnx")
    (tmp_path / "text.npz").write_text("no arrays")
    np.savez(tmp_path / "wrong_name.npz", z=normal(1, 3, 8, 8))
    np.savez(tmp_path / "wrong_rank.npz", x=normal(3, 8, 8))
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    arrays = (tmp_path / "wrong_rank.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(arrays[:100])
    (tmp_path / "damaged.npz").write_bytes(arrays.replace(arrays[200:240], b"?" * 40))
    (tmp_path / "scratch").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr(tempfile, "tempdir", None)  # read TMPDIR again
    return tmp_path


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below a folder, but for what libraries keep in TMPDIR for themselves.

    That is a session's number of ONNX Runtime, and a folder for torch's compiled code.
    """
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != ".ses" and not path.name.startswith("torchinductor_")
    }


OPTIMIZE = "optimize good.onnx -o out.onnx"

MODELS = {
    "nowhere.onnx": "No such file or directory",
    "truncated.onnx": "truncated",
    "text.onnx": "is no ONNX model",
    "empty.onnx": "is empty",
    "future.onnx": "opset 99",
    "astray.onnx": "'gone.bin' of initializer 'w' is missing",
}
NOT_RUNNABLE = {"custom.onnx": "acme.Blur", "nan.onnx": "initializer 'w' has"}

CALLS = {
    "bogus": "No such command 'bogus'",
    "optimize": "Missing argument 'MODEL'",
    "optimize good.onnx": "Missing option",
    "optimize scratch -o out.onnx": "Is a directory",
    "inspect scratch": "Is a directory",
    "bench scratch": "Is a directory",
    "validate scratch": "is no bundle: it has no manifest.json",
    "validate nowhere.zip": "cannot read 'nowhere.zip'",
    "convert good.onnx --to fp8 -o out.onnx": "use fp16, int8, ort, onnx",
    "convert good.onnx --to ort -o out.onnx": "end it in .ort",
    "convert good.onnx --to bundle -o scratch": "'scratch' exists",
    "convert good.onnx --to triton -o no/such": "cannot write 'no/such'",
    "convert good.onnx --to bundle -o no/such.zip": "cannot write 'no/such.zip'",
    f"{OPTIMIZE} --fast": "No such option: --fast",
    f"{OPTIMIZE} --input y=1x3x8x8": "no such input; it has 'x'",
    f"{OPTIMIZE} --input x=3x8x8": "3 dimensions given, the model's input has 4 (Nx3xHxW)",
    f"{OPTIMIZE} --input x=1x5x8x8": "x=1x5x8x8",
    f"{OPTIMIZE} --input x=0x3x8x8": "at least 1",
    f"{OPTIMIZE} --input x": "is not NAME=SHAPE",
    f"{OPTIMIZE} --input =1x3x8x8": "is not NAME=SHAPE",
    f"{OPTIMIZE} --input x=": "is not NAME=SHAPE",
    f"{OPTIMIZE} --input x=1xx8x8": "is not NAME=SHAPE",
    f"{OPTIMIZE} --input x=1x-3x8x8": "is not NAME=SHAPE",
    f"{OPTIMIZE} --input x=1x3x8x8 --input x=1x3x9x9": "given twice",
    f"{OPTIMIZE} --provider abacus": "provider 'abacus' is unknown; use one of cpu, cuda",
    f"{OPTIMIZE} --provider openvino": "pip install onnxruntime-openvino",
    f"{OPTIMIZE} --level turbo": "--level 'turbo' is unknown; use fuse or search",
    f"{OPTIMIZE} --threads 0": "'--threads'",
    f"{OPTIMIZE} --threads many": "'--threads'",
    f"{OPTIMIZE} --seed=-1": "'--seed'",
    f"{OPTIMIZE} --max-error nan": "nan is not a number above 0",
    f"{OPTIMIZE} --max-growth 0": "--max-growth must be",
    f"{OPTIMIZE} --time-limit inf": "--time-limit must be",
    f"{OPTIMIZE} --memory-limit inf": "--memory-limit must be",
    f"{OPTIMIZE} --data nowhere.npz": "cannot read --data 'nowhere.npz': No such file",
    f"{OPTIMIZE} --data text.npz": "'text.npz' is no .npz file",
    f"{OPTIMIZE} --data cut.npz": "'cut.npz' is no .npz file",
    f"{OPTIMIZE} --data damaged.npz": "'damaged.npz' is no .npz file",
    f"{OPTIMIZE} --data objects.npz": "'objects.npz' is no .npz file",
    f"{OPTIMIZE} --data good.onnx": "'good.onnx' is no .npz file",
    f"{OPTIMIZE} --data wrong_name.npz --level fuse": "'z', which is no input of the model",
    f"{OPTIMIZE} --data wrong_rank.npz --level fuse": "float32[3x8x8], the model wants",
    f"{OPTIMIZE} --json no/such/folder.json": "cannot write 'no/such/folder.json'",
    f"{OPTIMIZE} --json good.onnx": "would replace a model",
    f"{OPTIMIZE} --json ./out.onnx": "would replace a model",
    "optimize good.onnx -o scratch": "it is a folder",
    "optimize good.onnx -o no/such/out.onnx": "cannot write 'no/such/out.onnx': No such file",
    "optimize good.onnx -o /proc/out.onnx": "cannot write '/proc/out.onnx'",
    "optimize good.onnx -o good.onnx": "is part of the input model",
    "optimize good.onnx -o link.onnx": "is part of the input model",
    "optimize link.onnx -o good.onnx": "is part of the input model",
    "optimize split.onnx -o taken.onnx": "'taken.onnx.data'",
    "validate good.onnx --against nowhere.onnx": "cannot read 'nowhere.onnx'",
    "validate good.onnx --max-error 0": "0 is not a number above 0",
    "bench good.onnx good.onnx": "given twice",
    "bench good.onnx nowhere.onnx": "cannot read 'nowhere.onnx'",
    "bench good.onnx --provider cpu,abacus": "provider 'abacus' is unknown",
    "export nothing -o out.onnx --input x=1x3": "'package.module:callable'",
    "export no.such:module -o out.onnx --input x=1x3": "cannot import 'no.such'",
    "export os:getcwd -o out.onnx --input x=1x3": "gives a str; a torch.nn.Module is required",
    "export nowhere.pt2 -o out.onnx --input x=1x3": "cannot load 'nowhere.pt2'",
    "export torch.nn:Identity -o no/out.onnx --input input=1x3": "cannot write 'no/out.onnx'",
}

FAILED_CHECKS = {
    "optimize integers.onnx -o out.onnx": "ONNX Runtime does not load it",
    "validate integers.onnx": "ONNX Runtime does not load it",
    "bench integers.onnx": "ONNX Runtime does not load it",
}


def every_call() -> list[tuple[str, int, str]]:
    commands = [
        *("optimize {} -o out.onnx", "inspect {}", "validate {}", "bench {}"),
        *(
            f"convert {{}} --to {kind} -o out.{kind}"
            for kind in ("fp16", "ort", "bundle", "triton")
        ),
        "convert {} --to onnx --postprocess argmax -o out.onnx",
    ]
    calls = [(c.format(m), 2, why) for c in commands for m, why in MODELS.items()]
    commands.remove("inspect {}")
    calls += [(c.format(m), 2, why) for c in commands for m, why in NOT_RUNNABLE.items()]
    calls += [(call, 2, why) for call, why in CALLS.items()]
    return calls + [(call, 1, why) for call, why in FAILED_CHECKS.items()]


@pytest.mark.parametrize(("call", "status", "reason"), every_call())
def test_a_wrong_call_is_one_line(
    folder: Path, call: str, status: int, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = contents(folder)
    assert main(shlex.split(call)) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("advconv: ")
    assert err.count("\n") == 1
    assert reason in err
    assert contents(folder) == before


def raising(error: BaseException) -> Callable[..., NoReturn]:
    def fail(*args: object, **kwargs: object) -> NoReturn:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (MemoryError(), 2, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted; nothing was written"),
        (SystemExit(143), 143, "terminated; nothing was written"),
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/x"), 2, "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "Permission denied: '/x'"),
        (ImportError("no such symbol", name="onnxruntime"), 2, "cannot import onnxruntime"),
        (RecursionError("too\ndeep"), 2, "unexpected RecursionError: too deep"),
    ],
)
def test_whatever_a_command_raises_is_one_line(
    folder: Path,
    error: BaseException,
    status: int,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("advconv_onnx.optimizer.pipeline.optimize", raising(error))
    before = contents(folder)
    assert main(shlex.split(OPTIMIZE)) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert reason in err
    assert contents(folder) == before


def test_debug_shows_the_traceback_wherever_it_stands(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", "empty.onnx", "--debug"]) == 2
    err = capfd.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("advconv: 'empty.onnx' is empty")


def test_a_full_disk_leaves_nothing_behind(folder: Path) -> None:
    """The kernel itself refuses the write midway, as it does on a disk that is full."""
    big = CONV.replace("N, 3, H, W", "1, 3, 8, 8").replace("N, 4", "1, 4000")
    onnx.save(ir.to_proto(parse(big, w=normal(4000, 3, 3, 3))), folder / "big.onnx")
    before = contents(folder)
    done = subprocess.run(
        [ADVCONV, "optimize", "big.onnx", "-o", "out.onnx", "--level", "fuse"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "advconv: cannot write 'out.onnx': File too large; choose another place\n"
    assert contents(folder) == before


def test_ctrl_c_while_measuring_leaves_nothing_behind(folder: Path) -> None:
    slow = CONV.replace("N, 3, H, W", "1, 3, 900, 900").replace("N, 4", "1, 64")
    onnx.save(ir.to_proto(parse(slow, w=normal(64, 3, 3, 3))), folder / "slow.onnx")
    before = contents(folder)
    process = subprocess.Popen(
        [ADVCONV, "bench", "slow.onnx"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not list(folder.glob("scratch/*/inputs.npz")):
        time.sleep(0.02)
    # Python loses an interrupt that arrives in a callback of its own; then a user types it again.
    for _ in range(5):
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            out, err = process.communicate(timeout=5)
            break
    line = "advconv: interrupted; nothing was written\n"
    assert (process.returncode, out, err) == (130, "", line)
    assert contents(folder) == before


def test_what_goes_wrong_after_ctrl_c_is_still_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(**options: object) -> int:
        try:
            raise KeyboardInterrupt
        finally:
            raise ValueError("closed twice")

    monkeypatch.setattr(cli, "app", interrupted)
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "advconv: interrupted; nothing was written\n"


def test_a_closed_pipe_is_no_error(folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [ADVCONV, "inspect", "good.onnx"], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
