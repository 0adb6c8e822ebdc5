"""Memory and throughput of ``advconv run`` on a thousand and on a hundred thousand files.

    python benchmarks/run_folder.py [--files 1000,100000]

The pictures are tiny and so is the model: what is measured is the run around them. Each run is a
process of its own; its peak of resident memory must not grow with the number of files.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import advconv_onnx
from advconv_onnx.layers import Builder, conv

ADVCONV = str(Path(sysconfig.get_path("scripts"), "advconv"))

_DIFFERENT = 100
"""Pictures; all files are links to these."""

_IN_A_FOLDER = 10_000


def main() -> None:
    """Print a line for each number of files and each form of results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", default="1000,100000", help="numbers of files")
    counts = [int(count) for count in parser.parse_args().files.split(",")]
    print(f"{'files':>8} {'form':8} {'files/s':>9} {'peak RSS':>10}")
    with tempfile.TemporaryDirectory(prefix="advconv-") as name:
        folder = Path(name)
        write_model(folder / "model.onnx")
        for count in counts:
            write_pictures(folder / "in", count)
            for form in ("npz", "masks", "labels"):
                speed, peak = measure(folder, form, count)
                print(f"{count:8} {form:8} {speed:9.1f} {peak:7.1f} MB", flush=True)


def write_model(path: Path) -> None:
    """A convolution for masks, and the mean of its channels for labels."""
    b = Builder(opset=20, seed=0)
    x = b.input("x", ("N", 3, 32, 32))
    y = conv(b, x, 8, 3, pads=1)
    b.output(y, "y")
    assert y.shape is not None
    b.output(b.node("GlobalAveragePool", [y], (y.shape[0], 8, 1, 1), name="mean"), "scores")
    advconv_onnx.save(b.model(), path)


def write_pictures(folder: Path, count: int) -> None:
    """Make a folder of so many files, in place of an earlier one."""
    shutil.rmtree(folder, ignore_errors=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number // _IN_A_FOLDER}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < _DIFFERENT:
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
        else:
            os.link(folder / "0" / f"{number % _DIFFERENT}.png", path)


def measure(folder: Path, form: str, count: int) -> tuple[float, float]:
    """Files per second and megabytes of one run."""
    call = [ADVCONV, "run", "model.onnx", "in", "-o", "out", "--as", form, "--batch", "8"]
    process = subprocess.Popen([*call, "--json", "-"], cwd=folder, stdout=subprocess.PIPE)
    assert process.stdout is not None
    report = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    assert report["written"] == count
    shutil.rmtree(folder / "out")
    return report["per_second"], usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    main()
