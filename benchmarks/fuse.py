"""Time and memory of whole processes: advconv optimize --level fuse, onnxsim and OnnxSlim.

    python benchmarks/fuse.py [--models] [--chains] [--large] [--size N] [--rounds N] [--seed N]
                              [--timeout S] [--json FILE]

Without a part named, all three run: ``--models`` the trained models at the shapes this project
develops with, ``--chains`` generated ones of 1,000, 10,000 and 50,000 nodes, ``--large`` one of
1 GB in one file and one of 2.3 GB with external data. In every round each tool gets the same file
by its own command, in random order, OnnxSlim twice: its two runs are the noise floor.

Prints a Markdown table: nodes written, median seconds, ours over the tool's of the same round
(median, lowest and highest), peak memory and that over the size of the model. Memory is resident
memory of all processes, mapped files included.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import json
import os
import random
import shutil
import statistics
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "samples"))

from fetch_models import MODELS, Unavailable, model_path

from advconv_onnx import model as files
from benchmarks.chain_models import conv_chain, heavy, shape_chain
from benchmarks.process import Usage, run
from benchmarks.real_models import OURS, TOOLS, loosened

SIZES = (1_000, 10_000, 50_000)
LAYERS = {"1 GB, one file": 60, "2.3 GB, external data": 137}
"""Layers of 16 MiB each."""

ROUNDS = {"models": 5, "chains": 3, "large": 1}

_AGAIN = "OnnxSlim again"
_NEEDED = 12 << 30
"""Bytes on disk for the large models and what three tools make of one."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A model to optimize: written when its turn comes, removed afterwards.

    Attributes:
        write: puts the model into a folder and returns its path.
        shapes: that inputs are fixed to.
    """

    part: str
    name: str
    write: Callable[[Path], Path]
    shapes: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Result:
    """All runs of one tool on one model.

    Attributes:
        size: bytes of the model and its external data.
        nodes: operators in the file that was written.
    """

    part: str
    model: str
    tool: str
    size: int
    nodes: int = 0
    runs: list[Usage] = dataclasses.field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Median of all rounds."""
        return statistics.median(usage.seconds for usage in self.runs)

    @property
    def peak(self) -> int:
        """Largest of all rounds."""
        return max(usage.peak for usage in self.runs)

    @property
    def anonymous(self) -> int:
        """Largest of all rounds."""
        return max(usage.anonymous for usage in self.runs)

    @property
    def failure(self) -> str:
        """Of the first run that failed."""
        return next((usage.failure for usage in self.runs if usage.failure), "")


def jobs(parts: Sequence[str], sizes: Sequence[int], seed: int) -> Iterator[Job]:
    """The models of the parts that were asked for."""
    if "models" in parts:
        for name in MODELS:
            # Scalars choose branches, some of which ONNX Runtime rejects for a fixed input.
            shapes = MODELS[name].shapes
            shapes = shapes if all(shapes.values()) else {}
            yield Job("models", name, functools.partial(_trained, name), shapes)
    if "chains" in parts:
        for size in sizes:
            for kind, build in (("conv", conv_chain), ("shape", shape_chain)):
                write = functools.partial(_generated, functools.partial(build, size, seed))
                yield Job("chains", f"{kind} chain, {size:,} nodes", write)
    if "large" in parts:
        for name, layers in LAYERS.items():
            write = functools.partial(_generated, functools.partial(heavy, layers, seed))
            yield Job("large", name, write)


def _trained(name: str, folder: Path) -> Path:
    return loosened(model_path(name), folder / "model.onnx", MODELS[name].shapes)


def _generated(build: Callable[[], ir.Model], folder: Path) -> Path:
    files.save(build(), folder / "model.onnx")
    return folder / "model.onnx"


def measure(job: Job, folder: Path, rounds: int, timeout: float, seed: int) -> list[Result]:
    """Run all tools on one model, round by round."""
    model = job.write(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    order = random.Random(seed)
    labels = [*TOOLS, _AGAIN]
    results = {label: Result(job.part, job.name, label, size) for label in labels}
    for _ in range(rounds):
        for label in order.sample(labels, len(labels)):
            if results[label].failure:
                continue
            results[label].runs.append(_once(label, model, job.shapes, timeout, results[label]))
    return list(results.values())


def _once(
    label: str,
    model: Path,
    shapes: Mapping[str, Sequence[int]],
    timeout: float,
    result: Result,
) -> Usage:
    """Run one tool in a folder of its own, and count what it wrote the first time."""
    tool = "OnnxSlim" if label == _AGAIN else label
    with tempfile.TemporaryDirectory(dir=model.parent) as scratch:
        out = Path(scratch, "out.onnx")
        command = TOOLS[tool](model, out, shapes)
        if not shapes:  # then their options for shapes take no value
            command = [word for word in command if word not in _SHAPE_OPTIONS]
        command[0] = str(Path(sysconfig.get_path("scripts"), command[0]))
        usage = run(command, timeout)
        if not usage.failure and not out.exists():
            return dataclasses.replace(usage, failure="wrote nothing")
        if not usage.failure and not result.nodes:
            written = onnx.load(out, load_external_data=False)
            result.nodes = sum(node.op_type != "Constant" for node in written.graph.node)
        return usage


_SHAPE_OPTIONS = {"--overwrite-input-shape", "--input-shapes"}


def row(result: Result, ours: Result) -> str:
    """One line of the table."""
    name = f"| {result.model} ({result.size / 1e6:,.1f} MB) | {result.tool}"
    if result.failure:
        return f"{name} | failed: {result.failure} | | | | |"
    ratio = "" if result is ours else spread(_ratios(ours, result))
    return (
        f"{name} | {result.nodes:,} | {result.seconds:.2f} | {ratio} "
        f"| {result.peak / 1e6:,.0f} MB ({result.anonymous / 1e6:,.0f}) "
        f"| {result.peak / result.size:.2f} ({result.anonymous / result.size:.2f}) |"
    )


def _ratios(numerator: Result, denominator: Result) -> list[float]:
    if numerator.failure or denominator.failure:
        return []
    pairs = zip(numerator.runs, denominator.runs, strict=True)
    return [mine.seconds / theirs.seconds for mine, theirs in pairs]


def spread(ratios: Sequence[float]) -> str:
    """Median, lowest and highest of paired ratios."""
    if not ratios:
        return ""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"


def summarize(results: Sequence[Result]) -> None:
    """Print, for each part, the ratios over all its models and the noise floor."""
    found: dict[tuple[str, str], dict[str, Result]] = collections.defaultdict(dict)
    for result in results:
        found[result.part, result.model][result.tool] = result
    print()
    for part in ROUNDS:
        by_tool = [tools for (other, _), tools in found.items() if other == part]
        noise = [ratio for tools in by_tool for ratio in _ratios(tools[_AGAIN], tools["OnnxSlim"])]
        if noise:
            print(f"- {part}: noise floor, OnnxSlim over itself: {spread(noise)}")
        for tool in TOOLS:
            ratios = [
                statistics.median(pairs)
                for tools in by_tool
                if tool != OURS and (pairs := _ratios(tools[OURS], tools[tool]))
            ]
            if ratios:
                mean = statistics.geometric_mean(ratios)
                print(
                    f"- {part}: ours over {tool}: {mean:.2f} (geometric mean of {len(ratios)}), "
                    f"{min(ratios):.2f} to {max(ratios):.2f}"
                )


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description="Compare time and memory of optimizers.")
    for part in ROUNDS:
        parser.add_argument(f"--{part}", action="append_const", const=part, dest="parts")
    parser.add_argument("--size", type=int, action="append", help="nodes of the chains; repeatable")
    parser.add_argument("--rounds", type=int, help="default: 5 models, 3 chains, 1 large")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds per run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write every run here")
    arguments = parser.parse_args()
    parts = arguments.parts or list(ROUNDS)
    if "large" in parts and shutil.disk_usage(tempfile.gettempdir()).free < _NEEDED:
        parser.error(f"--large needs {_NEEDED >> 30} GiB in '{tempfile.gettempdir()}'; set TMPDIR")

    print(f"{os.cpu_count()} cores; memory: peak (without files' pages), and over the model\n")
    print(
        "| model | tool | nodes | seconds | ours / tool | memory | / model |\n" + "|---" * 7 + "|"
    )
    results: list[Result] = []
    for job in jobs(parts, arguments.size or SIZES, arguments.seed):
        rounds = arguments.rounds or ROUNDS[job.part]
        with tempfile.TemporaryDirectory() as scratch:
            try:
                found = measure(job, Path(scratch), rounds, arguments.timeout, arguments.seed)
            except Unavailable as error:
                print(f"| {job.name} | {error} | | | | | |", flush=True)
                continue
        results += found
        ours = next(result for result in found if result.tool == OURS)
        for result in found:
            print(row(result, ours), flush=True)
    summarize(results)
    if arguments.json:
        text = json.dumps([dataclasses.asdict(result) for result in results], indent=1)
        arguments.json.write_text(text)


if __name__ == "__main__":
    main()
