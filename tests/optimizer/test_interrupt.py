"""Whatever ends a search: no half file, no process, and the cache keeps what was decided."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from advconv_onnx.errors import InputError
from advconv_onnx.optimizer.decisions import Decisions
from advconv_onnx.records import Decision
from tests.parsing import normal, parse
from tests.runtime.test_timing import children, is_running, needs_proc

ADVCONV = """
import sys
from advconv_onnx.cli import main
from advconv_onnx.runtime import timing
timing._MAX_ROUNDS = 5  # figures do not matter here
sys.exit(main(sys.argv[1:]))
"""
KERNELS = (3, 5)

pytestmark = needs_proc


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network of stages that are all different: each is a contest of its own."""
    body, weights = "", {"s": np.array([1, 1, 2, 2], np.float32)}
    for i, kernel in enumerate(KERNELS):
        body += (
            f'u{i} = Resize <mode = "nearest"> ({f"y{i - 1}" if i else "x"}, , s)'
            f"c{i} = Conv <pads = {[kernel // 2] * 4}> (u{i}, w{i})"
            f"y{i} = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c{i})\n"
        )
        weights[f"w{i}"] = normal(4, 4, kernel, kernel)
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 4, 16, 16] x) => (float[1, 4, 16, 16] y{len(KERNELS) - 1}) {{ {body} }}"""
    onnx.save(ir.to_proto(parse(text, **weights)), tmp_path / "model.onnx")
    (tmp_path / "scratch").mkdir()
    return tmp_path


@contextlib.contextmanager
def searching(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """``advconv optimize`` at work, after its first decision."""
    environment = {
        **os.environ,
        "ADVCONV_CACHE": str(folder / "cache.sqlite"),
        "TMPDIR": str(folder / "scratch"),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", ADVCONV, "optimize", "model.onnx", "-o", "out.onnx"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while process.poll() is None and not (decisions(folder) and children(process.pid)):
            time.sleep(0.05)
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        process.kill()
        process.communicate()


def decisions(folder: Path, *, writable: bool = False) -> list[Decision]:
    try:
        with contextlib.closing(Decisions(folder / "cache.sqlite", writable=writable)) as opened:
            return list(opened.entries())
    except InputError:
        return []  # it is just being made


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"cache.sqlite", "cache.sqlite-journal"}


@pytest.mark.parametrize(
    ("number", "status", "line"),
    [
        (signal.SIGINT, 130, "advconv: interrupted; nothing was written\n"),
        (signal.SIGTERM, 143, "advconv: terminated; nothing was written\n"),
        (signal.SIGKILL, -signal.SIGKILL, ""),
    ],
)
def test_a_search_that_ends_early(
    folder: Path, number: signal.Signals, status: int, line: str
) -> None:
    before = contents(folder)
    with searching(folder) as process:
        workers = children(process.pid)
        for _ in range(5):  # Python loses a signal that arrives in a callback of its own
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                out, err = process.communicate(timeout=5)
                break
    assert (process.returncode, out, err) == (status, "", line)
    assert contents(folder) == before
    assert decisions(folder, writable=True)  # a kill may leave a journal for the next to roll back
    deadline = time.monotonic() + 10
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, workers))
    if number != signal.SIGKILL:
        assert contents(folder / "scratch") <= {".ses"}  # which ONNX Runtime keeps for itself
