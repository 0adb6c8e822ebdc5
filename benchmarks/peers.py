"""Install what ``networks.py`` compares with, each tool in a virtual environment of its own.

    python benchmarks/peers.py [ENVIRONMENT ...]

``make peers`` does it. The environments go to ``.peers/``; their versions are pinned, and they
share nothing with each other or with this project. What cannot be installed gets a line that says
why, and the exit status is then 1; the comparison runs without it.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".peers"

ENVIRONMENTS: Mapping[str, Sequence[Sequence[str]]] = {
    "onnxsim": [["onnxsim==0.8.1"]],
    "onnxslim": [["onnxslim==0.1.98"]],
    "onnxscript": [["onnxscript==0.7.2"]],
    "openvino": [["openvino==2026.4.1"]],
    "mnn": [["MNN==3.6.1"]],
    # pnnx declares torch, which only its Python functions need: its program reads ONNX by itself.
    "ncnn": [["ncnn==1.0.20261020"], ["--no-deps", "pnnx==20261020"]],
}
"""For each environment the arguments of ``pip install``, call by call."""


def executable(environment: str, name: str = "python") -> str:
    """Path of a program of an environment, installed or not; "" is this project's own."""
    if not environment:
        return str(Path(sys.executable).with_name(name))
    return str(FOLDER / environment / "bin" / name)


def install(environment: str) -> str:
    """Create an environment unless it is complete; return why that failed, or nothing."""
    folder = FOLDER / environment
    calls = ENVIRONMENTS[environment]
    wanted = "\n".join(" ".join(call) for call in calls)
    complete = folder / "complete"
    if complete.exists() and complete.read_text() == wanted:
        return ""
    venv.create(folder, clear=True, with_pip=True)
    pip = [executable(environment), "-m", "pip", "install", "--quiet"]
    for call in calls:
        command = [*pip, "--constraint", str(ROOT / "constraints.txt"), *call]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
            return errors[0].removeprefix("ERROR: ") if errors else f"pip failed on {call[-1]}"
    complete.write_text(wanted)
    return ""


def main() -> int:
    """Install the environments named, or all."""
    names = sys.argv[1:] or list(ENVIRONMENTS)
    if unknown := set(names) - set(ENVIRONMENTS):
        print(f"no such environment: {', '.join(unknown)}; use {', '.join(ENVIRONMENTS)}")
        return 2
    failures = {name: install(name) for name in names}
    for name, failure in failures.items():
        print(f"{name}: not installed: {failure}" if failure else f"{name}: installed", flush=True)
    return int(any(failures.values()))


if __name__ == "__main__":
    sys.exit(main())
