"""The pattern matrix: what each optimizer folds, and what it gets wrong.

    python benchmarks/patterns.py [TOOL ...] [--only TEXT] [--seed N] [--timeout S] [--reasons]

Each tool gets the same small models, in a process of its own. A result is loaded by ONNX Runtime,
which then changes nothing, and compared with the original at two sizes. Cells of the first table:

    yes       folded: the result is what its pattern becomes
    -         not folded, and computes the same
    WRONG     computes something else: beyond 1e-4 of the output's largest value, or another shape
    invalid   does not load or run
    fails     no result: an error, a crash, or no end

In the second table, of models where the usual fold is wrong, ``ok`` is any result that computes the
same. Exit status 1 if advconv-onnx is anything but right.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.pattern_checks import SIZES, Pattern
from benchmarks.pattern_models import PATTERNS
from benchmarks.pattern_tools import OURS, TOOLS, Worker
from benchmarks.pattern_traps import TRAPS

TOLERANCE = 1e-4
"""Largest error over the largest value: folding rounds weights, which moves results by 1e-6."""

_PARALLEL = 2
"""Processes that run at a time."""

Arrays = Mapping[str, NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Case:
    """A model as a file, and what it computes from some inputs."""

    pattern: Pattern
    path: Path
    runs: tuple[tuple[Arrays, Arrays], ...]


@dataclasses.dataclass(frozen=True)
class Cell:
    """What one tool made of one model, and why."""

    verdict: str
    reason: str = ""


def prepare(pattern: Pattern, path: Path, seed: int) -> Case:
    """Write a model and compute its outputs at both sizes."""
    model = pattern.build(seed)
    onnx.save(model, path)
    feeds = [
        draw(model.graph, sizes, np.random.default_rng((seed, i))) for i, sizes in enumerate(SIZES)
    ]
    return Case(pattern, path, tuple((feed, expect(model, feed)) for feed in feeds))


def draw(graph: onnx.GraphProto, sizes: Mapping[str, int], rng: np.random.Generator) -> Arrays:
    """Inputs of both signs; conditions are true at the first sizes and false at the others."""
    feed: dict[str, NDArray[Any]] = {}
    for value in graph.input:
        tensor = value.type.tensor_type
        shape = [dim.dim_value or sizes[dim.dim_param] for dim in tensor.shape.dim]
        if tensor.elem_type == onnx.TensorProto.BOOL:
            feed[value.name] = np.array(sizes is SIZES[0])
        else:
            feed[value.name] = rng.normal(size=shape).astype(np.float32) * 3
    return feed


def expect(model: onnx.ModelProto, feed: Arrays) -> Arrays:
    """Run the original in ONNX Runtime, or in onnx itself where that has no kernel."""
    try:
        return run(model.SerializeToString(), feed)
    except Exception:  # Its exceptions have no common base; the evaluator then has the last word.
        names = [value.name for value in model.graph.output]
        return dict(zip(names, ReferenceEvaluator(model).run(None, dict(feed)), strict=True))


def run(model: bytes, feed: Arrays) -> Arrays:
    """Run a model as it stands."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feed)), strict=True))


def judge(case: Case, result: Path) -> Cell:
    """Tell what a tool has made of a model."""
    content = result.read_bytes()
    for feed, expected in case.runs:
        try:
            actual = run(content, feed)
        except Exception as error:  # As above.
            return Cell("invalid", " ".join(str(error).split()))
        if difference := differ(expected, actual):
            return Cell("WRONG", difference)
    if case.pattern.folded is None:
        return Cell("ok")
    return Cell("yes" if case.pattern.folded(onnx.load_from_string(content)) else "-")


def differ(expected: Arrays, actual: Arrays) -> str:
    """Say how outputs differ; nothing if they do not."""
    if expected.keys() != actual.keys():
        return f"outputs {sorted(actual)} for {sorted(expected)}"
    for name, values in expected.items():
        if actual[name].shape != values.shape or actual[name].dtype != values.dtype:
            return f"'{name}' is {actual[name].dtype}{actual[name].shape}, not {values.shape}"
        largest = max(float(np.abs(values).max()), float(np.finfo(np.float32).tiny))
        error = float(np.abs(actual[name] - values).max()) / largest
        if not error <= TOLERANCE:  # NaN is an error too
            return f"'{name}' is off by {error:.1e} of its largest value"
    return ""


def examine(
    tool: str, cases: Sequence[Case], folder: Path, timeout: float, pool: ThreadPoolExecutor
) -> list[Cell]:
    """Run one tool on all models, several processes of it at a time."""
    stem = tool.replace(" ", "-")

    def work(part: Sequence[Case]) -> list[Cell]:
        cells = []
        with Worker(tool, timeout) as worker:
            for case in part:
                target = folder / f"{case.path.stem}.{stem}.onnx"
                failure = worker.run(case.path, target)
                cells.append(Cell("fails", failure) if failure else judge(case, target))
        return cells

    found = list(pool.map(work, (cases[i::_PARALLEL] for i in range(_PARALLEL))))
    return [found[i % _PARALLEL][i // _PARALLEL] for i in range(len(cases))]


def table(cases: Sequence[Case], columns: Mapping[str, Sequence[Cell]]) -> None:
    """Print a Markdown table of verdicts, and their numbers below it."""
    if not cases:
        return
    print(f"\n| {len(cases)} models | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for case, row in zip(cases, zip(*columns.values(), strict=True), strict=True):
        verdicts = " | ".join(cell.verdict for cell in row)
        print(f"| {case.pattern.group}: {case.pattern.name} | {verdicts} |")
    counts = [collections.Counter(cell.verdict for cell in cells) for cells in columns.values()]
    for verdict in ("yes", "-", "ok", "WRONG", "invalid", "fails"):
        if any(count[verdict] for count in counts):
            numbers = " | ".join(str(count[verdict]) for count in counts)
            print(f"| **{verdict}** | {numbers} |")


def print_summary(cases: Sequence[Case], columns: Mapping[str, Sequence[Cell]]) -> None:
    """Print how many patterns the others fold together, and which of them ours does not."""
    folded = {
        tool: {case.path for case, cell in zip(cases, cells, strict=True) if cell.verdict == "yes"}
        for tool, cells in columns.items()
    }
    others = set().union(*(paths for tool, paths in folded.items() if tool != OURS))
    ours = folded[OURS]
    print(
        f"\n{OURS} folds {len(ours)}, all others together {len(others)}; "
        f"{len(ours - others)} only {OURS}."
    )
    for case in cases:
        if case.path in others - ours:
            print(f"- only others: {case.pattern.group}: {case.pattern.name}")


def main() -> int:
    """Run the matrix."""
    parser = argparse.ArgumentParser(description="Compare what optimizers fold.")
    parser.add_argument("tools", nargs="*", metavar="TOOL", help=f"of {', '.join(TOOLS)}")
    parser.add_argument("--only", default="", help="models whose group or name contain this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds per model and tool")
    parser.add_argument("--reasons", action="store_true", help="also print what went wrong")
    arguments = parser.parse_args()
    tools = arguments.tools or list(TOOLS)
    if unknown := set(tools) - set(TOOLS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose of {', '.join(TOOLS)}")

    wanted = [p for p in (*PATTERNS, *TRAPS) if arguments.only in f"{p.group}: {p.name}"]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(_PARALLEL) as pool:
        folder = Path(scratch)
        cases = [prepare(p, folder / f"{i:03}.onnx", arguments.seed) for i, p in enumerate(wanted)]
        columns = {tool: examine(tool, cases, folder, arguments.timeout, pool) for tool in tools}

    patterns = sum(case.pattern.folded is not None for case in cases)
    table(cases[:patterns], {tool: cells[:patterns] for tool, cells in columns.items()})
    table(cases[patterns:], {tool: cells[patterns:] for tool, cells in columns.items()})
    if OURS in columns:
        print_summary(cases[:patterns], {tool: cells[:patterns] for tool, cells in columns.items()})
    if arguments.reasons:
        for tool, cells in columns.items():
            for case, cell in zip(cases, cells, strict=True):
                if cell.reason:
                    name = f"{case.pattern.group}: {case.pattern.name}"
                    print(f"- {tool}, {name}: {cell.verdict}: {cell.reason[:300]}")
    ours = columns.get(OURS, ())
    return int(any(cell.verdict in ("WRONG", "invalid", "fails") for cell in ours))


if __name__ == "__main__":
    sys.exit(main())
