"""Time and memory of building ResNeXt-50, beside torch.onnx.export of the same network.

    python benchmarks/build.py [--rounds N]

Each way has a process of its own in every round, in random order, and writes a file. "call" is what
the user waits for once everything is imported, "process" is all of it; memory is the peak of the
process, the interpreter and its libraries included. Prints medians.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_TORCH = """
import warnings; warnings.simplefilter("ignore")
import torch
from tests.networks.twins.resnext import ResNeXt
start = time.perf_counter()
twin = ResNeXt().eval()
torch.onnx.export(
    twin, (torch.zeros(1, 3, 224, 224),), sys.argv[1], dynamo={dynamo}, verbose=False
)
"""

WAYS = {
    "advconv build": """
from advconv_onnx import catalog, save
start = time.perf_counter()
save(catalog.build("resnext"), sys.argv[1])
""",
    "torch.onnx.export": _TORCH.format(dynamo=True),
    "torch.onnx.export, dynamo=False": _TORCH.format(dynamo=False),
}
"""Source of each way; ``start`` is when the imports are done."""

_REPORT = """
call = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"call": call, "peak": peak}))
"""


def run(way: str, folder: Path) -> dict[str, float]:
    """Seconds of the call and of the process, peak bytes, and bytes of the files written."""
    script = f"import json, resource, sys, time\n{WAYS[way]}\n{_REPORT}"
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder / "model.onnx")],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    written = sum(path.stat().st_size for path in folder.iterdir())
    return {**measured, "process": time.perf_counter() - start, "written": written}


def main() -> None:
    """Measure all ways and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    order = random.Random(0)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in order.sample(list(WAYS), len(WAYS)):
            with tempfile.TemporaryDirectory() as folder:
                found[way].append(run(way, Path(folder)))
    print(f"| ResNeXt-50 32x4d, {rounds} rounds | call | process | peak | peak / file |")
    print("|---|---|---|---|---|")
    for way, runs in found.items():
        call, process, peak, written = (
            statistics.median(measured[key] for measured in runs)
            for key in ("call", "process", "peak", "written")
        )
        print(
            f"| {way} | {call:.2f} s | {process:.2f} s | {peak / 1e6:.0f} MB "
            f"| {peak / written:.2f} |"
        )


if __name__ == "__main__":
    main()
