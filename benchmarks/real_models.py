"""Compare the original, onnxsim, OnnxSlim and advconv-onnx on real trained models.

    python benchmarks/real_models.py [MODEL ...] [--rounds N] [--threads N] [--seed N] [--profile]

Every tool gets the same file and the same fixed input shapes, runs by its own command in its own
process, and is timed in one paired run with the original. Prints a markdown table: nodes without
constants, median latency, speedup over the original (of the original over itself: the noise floor),
largest error relative to the output's range, against float64 and against the original in ONNX
Runtime, and the seconds the tool took.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from advconv_onnx import model as model_file
from advconv_onnx.errors import AdvconvError
from advconv_onnx.records import Measurement
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.profile import profile
from advconv_onnx.runtime.reference import Reference
from advconv_onnx.runtime.session import open_session
from advconv_onnx.runtime.timing import measure

sys.path.insert(0, str(Path(__file__).parents[1] / "samples"))

from fetch_models import MODELS, model_path
from read_text import render, to_tensor

DEFAULT = ("ppocr_det", "ppocr_rec", "ppocr_cls", "centerface")
OURS = "advconv-onnx"
TOOL_TIMEOUT = 600  # seconds

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass
class Entry:
    """One file of the comparison, or why there is none."""

    tool: str
    path: Path
    seconds: float | None = None
    failure: str = ""
    errors: tuple[float, float] = (0.0, 0.0)  # against float64, against the original

    @property
    def nodes(self) -> int:
        """Operators of the file, constants left out."""
        return model_file.count_nodes(model_file.load(self.path))


def optimize(tool: str, model: Path, shapes: Mapping[str, Sequence[int]]) -> Entry:
    """Run one tool on a model with fixed input shapes; a failure is a result too."""
    out = model.with_suffix(f".{tool}.onnx")
    command = TOOLS[tool](model, out, shapes)
    command[0] = str(Path(sysconfig.get_path("scripts"), command[0]))
    start = time.perf_counter()
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=TOOL_TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Entry(tool, out, failure=str(error))
    seconds = time.perf_counter() - start
    if run.returncode or not out.exists():
        lines = (run.stderr.strip() or run.stdout.strip() or "no message").splitlines()
        return Entry(tool, out, failure=f"exit status {run.returncode}: {lines[-1]}")
    return Entry(tool, out, seconds)


def onnxsim(model: Path, out: Path, shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """Return onnxsim's command line."""
    fixed = [f"{name}:{','.join(map(str, shape))}" for name, shape in shapes.items()]
    return ["onnxsim", str(model), str(out), "--overwrite-input-shape", *fixed]


def onnxslim(model: Path, out: Path, shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """Return OnnxSlim's command line."""
    fixed = [f"{name}:{','.join(map(str, shape))}" for name, shape in shapes.items()]
    return ["onnxslim", str(model), str(out), "--input-shapes", *fixed]


def advconv(model: Path, out: Path, shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """Return our own command line."""
    fixed = [f"--input={name}={'x'.join(map(str, shape))}" for name, shape in shapes.items()]
    return ["advconv", "optimize", str(model), "-o", str(out), *fixed, "--level=fuse", "--quiet"]


TOOLS = {"onnxsim": onnxsim, "OnnxSlim": onnxslim, OURS: advconv}


def loosened(source: Path, out: Path, shapes: Mapping[str, Sequence[int]]) -> Path:
    """Copy a model, making the dimensions dynamic that its file fixes to other sizes.

    Nothing else changes: initializers listed as inputs, for one, are part of what is compared.
    """
    model = onnx.load(source)
    fixed = False
    for value in model.graph.input:
        if value.name not in shapes:
            continue
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
            if dim.HasField("dim_value") and dim.dim_value not in (size, -1):
                dim.Clear()
                fixed = True
    if fixed:  # then the outputs' sizes are just as wrong
        del model.graph.value_info[:]
        for value in model.graph.output:
            for dim in value.type.tensor_type.shape.dim:
                dim.Clear()
    onnx.save(model, out)
    return out


def picture(model: str) -> Arrays:
    """Render text at the size of the model's input: on noise a text detector answers nothing."""
    ((name, (_, _, height, width)),) = MODELS[model].shapes.items()
    tensor = to_tensor(render("Proved equal", (width, height), font_size=max(16, height // 8)))
    if model == "centerface":  # takes RGB bytes as they are
        tensor = (tensor[:, ::-1] + 1) * 127.5
    return {name: np.ascontiguousarray(tensor)}


def largest_error(expected: Arrays, actual: Arrays) -> float:
    """Return the largest difference of any output, over the range of its expected values."""
    return max(
        float(np.abs(actual[name] - values).max() / np.ptp(values))
        for name, values in expected.items()
    )


def compare(name: str, arguments: argparse.Namespace, folder: Path) -> Measurement:
    """Run all tools on one model, measure them together, and print the rows of the table."""
    shapes = MODELS[name].shapes
    original = Entry("original", loosened(model_path(name), folder / f"{name}.onnx", shapes))
    entries = [original, *(optimize(tool, original.path, shapes) for tool in TOOLS)]
    inputs = picture(name)
    exact = Reference(model_file.load(original.path)).run(inputs)
    before = run_session(open_session(original.path), inputs)
    for entry in (entry for entry in entries if not entry.failure):
        try:
            actual = run_session(open_session(entry.path), inputs)
            entry.errors = largest_error(exact, actual), largest_error(before, actual)
        except AdvconvError as error:
            entry.failure = str(error)
    measurement = measure(
        {entry.tool: entry.path for entry in entries if not entry.failure},
        inputs,
        threads=arguments.threads,
        seed=arguments.seed,
        rounds=arguments.rounds,
        time_limit=arguments.time_limit,
    )
    for entry in entries:
        print(row(name, entry, measurement), flush=True)
    if arguments.profile:
        for entry in (entries[0], entries[-1]):
            print_profile(name, entry, inputs, arguments.threads)
    return measurement


def print_profile(name: str, entry: Entry, inputs: Arrays, threads: int | None) -> None:
    """Print, as a comment below the table's rows, where ONNX Runtime spends a model's time."""
    if entry.failure:
        return
    times = profile(entry.path, inputs, threads=threads, runs=20)
    shares = ", ".join(f"{t.op_type} {t.share:.0%} ({t.count})" for t in times if t.share >= 0.01)
    print(f"<!-- {name}, {entry.tool}: {shares} -->", flush=True)


def row(name: str, entry: Entry, measurement: Measurement) -> str:
    """Format one line of the markdown table."""
    if failure := entry.failure or measurement.failures.get(entry.tool):
        return f"| {name} | {entry.tool} | failed: {failure} | | | | | |"
    timing = next(timing for timing in measurement.timings if timing.name == entry.tool)
    ratio = timing.speedup if timing is not measurement.timings[0] else measurement.noise
    label = "A/A " if timing is measurement.timings[0] else ""
    seconds = "" if entry.seconds is None else f"{entry.seconds:.1f}"
    return (
        f"| {name} | {entry.tool} | {entry.nodes} | {timing.latency.median:.2f} "
        f"| {label}{ratio.median:.3f} ({ratio.low:.3f} - {ratio.high:.3f}) "
        f"| {entry.errors[0]:.1e} | {entry.errors[1]:.1e} | {seconds} |"
    )


def summarize(measurements: Sequence[Measurement]) -> None:
    """Print the geometric means, and ours over the better peer of each model."""
    speedups = [{t.name: t.speedup.median for t in m.timings} for m in measurements]
    print()
    for tool in TOOLS:
        values = [each[tool] for each in speedups if tool in each]
        if values:
            mean = statistics.geometric_mean(values)
            print(f"- {tool} over the original: {mean:.3f} (geometric mean of {len(values)})")
    gains = [
        each[OURS] / max((each[tool] for tool in TOOLS if tool != OURS and tool in each), default=1)
        for each in speedups
        if OURS in each
    ]
    if gains:
        mean = statistics.geometric_mean(gains)
        print(f"- {OURS} over the better of the others: {mean:.3f}, at worst {min(gains):.3f}")


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description="Compare optimizers on real models.")
    parser.add_argument("models", nargs="*", default=DEFAULT, metavar="MODEL")
    parser.add_argument("--rounds", type=int, help="measured rounds (default: as many as needed)")
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds per model")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", action="store_true", help="also show time per operator")
    arguments = parser.parse_args()
    if unknown := set(arguments.models) - set(DEFAULT):
        parser.error(
            f"no pictures for {', '.join(sorted(unknown))}; choose of {', '.join(DEFAULT)}"
        )

    print("| model | tool | nodes | ms | speedup (95 %) | error | error, original | seconds |")
    print("|---" * 8 + "|")
    with tempfile.TemporaryDirectory() as scratch:
        summarize([compare(name, arguments, Path(scratch)) for name in arguments.models])


if __name__ == "__main__":
    main()
