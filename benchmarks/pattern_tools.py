"""The optimizers of the pattern matrix, each run in a process of its own.

    python benchmarks/pattern_tools.py TOOL

reads lines ``SOURCE<tab>TARGET`` and answers each with a line: empty, or why the tool failed.
"""

from __future__ import annotations

import importlib
import os
import selectors
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

OURS = "advconv-onnx"

_START = 120
"""Seconds a tool may take for its first model, imports included."""


class Worker:
    """A process that runs one tool on one model after another; a hang or a crash is an answer."""

    def __init__(self, tool: str, timeout: float) -> None:
        """Start nothing yet.

        Args:
            tool: a name of ``TOOLS``.
            timeout: seconds per model.
        """
        self._tool = tool
        self._timeout = timeout
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def run(self, source: Path, target: Path) -> str:
        """Optimize one model.

        Returns:
            Why there is no result; nothing when there is one.
        """
        timeout = self._timeout
        if self._process is None:
            self._process, timeout = self._start(), _START
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{source}\t{target}\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout):
                self._stop()
                return f"no result within {timeout:g} s"
        if answer := process.stdout.readline():
            return answer.strip()
        self._stop()
        return f"the process ended with status {process.returncode}"

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, __file__, self._tool],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _onnxsim(source: Path, target: Path) -> None:
    onnx, onnxsim = importlib.import_module("onnx"), importlib.import_module("onnxsim")
    onnx.save(onnxsim.simplify(str(source), include_subgraph=True)[0], target)


def _onnxslim(source: Path, target: Path) -> None:
    importlib.import_module("onnxslim").slim(str(source), str(target))


def _onnxscript(source: Path, target: Path) -> None:
    ir = importlib.import_module("onnx_ir")
    model = ir.load(source)
    importlib.import_module("onnxscript.optimizer").optimize(model)
    importlib.import_module("onnxscript.rewriter").rewrite(model)
    ir.save(model, target)


def _onnxoptimizer(source: Path, target: Path) -> None:
    onnx, module = importlib.import_module("onnx"), importlib.import_module("onnxoptimizer")
    passes = module.get_fuse_and_elimination_passes()
    model = onnx.shape_inference.infer_shapes(onnx.load(source))  # it trusts only written shapes
    onnx.save(module.optimize(model, passes, fixed_point=True), target)


def _onnxruntime(source: Path, target: Path) -> None:
    ort = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def _ours(source: Path, target: Path) -> None:
    importlib.import_module("advconv_onnx").optimize(source, target, level="fuse")


TOOLS: dict[str, Callable[[Path, Path], None]] = {
    "onnxsim": _onnxsim,
    "OnnxSlim": _onnxslim,
    "onnxscript": _onnxscript,
    "onnxoptimizer": _onnxoptimizer,
    "ORT extended": _onnxruntime,
    OURS: _ours,
}
"""How each tool writes its version of a model. The worker imports only the tool it runs."""


def _serve(tool: str) -> None:
    """Answer on the standard output of old; what the tool prints goes elsewhere."""
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            source, target = map(Path, line.rstrip("\n").split("\t"))
            try:
                TOOLS[tool](source, target)
                answer = "" if target.exists() else "wrote nothing"
            except BaseException as error:  # A tool may raise anything, SystemExit too.
                answer = " ".join(f"{type(error).__name__}: {error}".split())
            answers.write(f"{answer}\n")


if __name__ == "__main__":
    _serve(sys.argv[1])
