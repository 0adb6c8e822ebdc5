"""The contestants of ``networks.py``: how each converts a model, and what runs the result."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.peers import FOLDER, executable

OURS = "advconv-onnx"
EXPORT = "export"
TWIN = "twin"
"""The re-parameterized network."""

_TIMEOUT = 600
"""Seconds that a conversion may take."""

Shapes = Mapping[str, Sequence[int]]


class Failed(Exception):
    """A contestant cannot take part; the message is the reason."""


@dataclasses.dataclass(frozen=True)
class Tool:
    """One contestant.

    Attributes:
        environment: the virtual environment of the tool; "" is this project's.
        command: the call that reads the first path and writes the second; None if the runtime
            takes the model as it is.
        runtime: a name of ``peer_worker.LOADERS``.
        suffix: of what ``command`` writes.
        variables: of the process that runs the result.
    """

    environment: str = ""
    command: Callable[[Path, Path], list[str]] | None = None
    runtime: str = "onnxruntime"
    suffix: str = ".onnx"
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def convert(self, model: Path, folder: Path) -> Path:
        """Write what the runtime loads into an empty folder.

        Raises:
            Failed: the tool is not installed, or does not convert this model.
        """
        if self.environment and not (FOLDER / self.environment / "complete").exists():
            raise Failed(f"{self.environment} is not installed; run make peers")
        if self.command is None:
            return model
        copy = Path(shutil.copy(model, folder / "model.onnx"))  # some write beside what they read
        out = folder / f"out{self.suffix}"
        _run(self.command(copy, out))
        if not out.exists():
            raise Failed("its converter wrote no file")
        return out

    @property
    def python(self) -> str:
        """The interpreter that runs the result; ONNX Runtime is always the same one."""
        return executable("" if self.runtime == "onnxruntime" else self.environment)


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(str(error)) from error
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise Failed(f"exit status {done.returncode}: {lines[-1].strip()[:200]}")


def onnxsim(model: Path, out: Path) -> list[str]:
    """Return its command line."""
    return [executable("onnxsim", "onnxsim"), str(model), str(out)]


def onnxslim(model: Path, out: Path) -> list[str]:
    """Return its command line."""
    return [executable("onnxslim", "onnxslim"), str(model), str(out)]


def onnxscript(model: Path, out: Path) -> list[str]:
    """Return a command line for its optimizer, which has none."""
    script = (
        "import sys, onnx, onnxscript.optimizer as o;"
        "onnx.save(o.optimize(onnx.load(sys.argv[1])), sys.argv[2])"
    )
    return [executable("onnxscript"), "-c", script, str(model), str(out)]


def mnn(model: Path, out: Path) -> list[str]:
    """Return a command line for MNN's converter.

    Its own command ``mnnconvert`` installs a package into whatever pip is found and reports the
    call to a server; this one only converts.
    """
    script = "import sys, _tools; _tools.mnnconvert(sys.argv)"
    files = ["--modelFile", str(model), "--MNNModel", str(out)]
    return [executable("mnn"), "-c", script, "-f", "ONNX", *files, "--bizCode", "benchmark"]


def ncnn(model: Path, out: Path) -> list[str]:
    """Return the command line of pnnx, weights kept in float32."""
    [program] = (FOLDER / "ncnn").glob("lib/*/site-packages/pnnx/pnnx")
    weights = [f"ncnnparam={out}", f"ncnnbin={out.with_suffix('.bin')}"]
    return [str(program), str(model), "fp16=0", *weights]


def ours(level: str, threads: int, shapes: Shapes) -> Callable[[Path, Path], list[str]]:
    """Return what makes our own command line."""
    tensors = {name: shape for name, shape in shapes.items() if shape}
    inputs = [f"--input={name}={'x'.join(map(str, shape))}" for name, shape in tensors.items()]
    options = [f"--level={level}", f"--threads={threads}", "--quiet"]
    program = executable("", "advconv")
    return lambda model, out: [program, "optimize", str(model), "-o", str(out), *inputs, *options]


PEERS: Mapping[str, Tool] = {
    EXPORT: Tool(),
    "onnxsim": Tool("onnxsim", onnxsim),
    "OnnxSlim": Tool("onnxslim", onnxslim),
    "onnxscript": Tool("onnxscript", onnxscript),
    "OpenVINO": Tool("openvino", runtime="openvino"),
    "MNN": Tool("mnn", mnn, "mnn", ".mnn"),
    "ncnn": Tool("ncnn", ncnn, "ncnn", ".param"),
    # Its threads spin between layers. That is faster where nobody else computes, and a hundred
    # times slower where somebody does: the better of the two counts.
    "ncnn, passive": Tool("ncnn", ncnn, "ncnn", ".param", {"OMP_WAIT_POLICY": "passive"}),
}
"""All but ours, in the order of the table."""

IN_ONNXRUNTIME = [name for name, tool in PEERS.items() if tool.runtime == "onnxruntime"]
"""The best of these is what ours is compared with."""
