"""Whole networks: advconv-onnx against other optimizers and other runtimes, in one paired run each.

    python benchmarks/networks.py [--only NAME ...] [--level fuse|search] [--threads N] [--seed N]
                                  [--rounds N] [--time-limit S] [--tools NAME ...] [--json FILE]

``make peers`` first. A network is exported from torch with seeded weights; ``--only`` also takes
the trained models of ``samples/fetch_models.py``. Each contestant has a process, and each other
runtime an environment, of its own. All are loaded first; then, round by round and in random order,
each makes one unmeasured and one measured inference in float32 while the others are stopped.

Prints a Markdown table per network. "ratio" is the time of the best of those that run in ONNX
Runtime, ours and the twin left out, over the contestant's in the same round: median and 95 %
interval. For "export (again)", the same file in a second process, it is over "export": the noise
floor. "error" is the largest difference from float64, relative to an output's range; beyond 1e-3 a
contestant is marked wrong, and no ratio is given. "seconds" is what converting took.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "samples"))

from fetch_models import MODELS

from advconv_onnx import model as model_file
from advconv_onnx.errors import AdvconvError
from advconv_onnx.records import Ratio
from advconv_onnx.runtime.timing import paired_ratio
from benchmarks.contestant import Contestant
from benchmarks.network_models import NETWORKS, Subject, prepare
from benchmarks.peer_tools import (
    EXPORT,
    IN_ONNXRUNTIME,
    OURS,
    PEERS,
    TWIN,
    Failed,
    Tool,
    ours,
)

AGAIN = f"{EXPORT} (again)"
WRONG = 1e-3
_FEW_ROUNDS = 5
_MOST_ROUNDS = 100

_AGAINST = {
    "best in ORT": IN_ONNXRUNTIME,
    "twin": [TWIN],
    "OpenVINO": ["OpenVINO"],
    "MNN": ["MNN"],
    "ncnn": ["ncnn", "ncnn, passive"],
}
"""Columns of the summary: the fastest of each list over ours."""


@dataclasses.dataclass
class Entry:
    """What one contestant did on one network.

    Attributes:
        seconds: of converting; None where nothing is converted.
        nodes: operators of what ONNX Runtime loads, constants left out.
        error: largest difference from float64, relative to the output's range.
        samples: nanoseconds, round by round.
        failure: why it does not take part to the end.
    """

    name: str
    seconds: float | None = None
    nodes: int | None = None
    error: float | None = None
    samples: list[int] = dataclasses.field(default_factory=list)
    failure: str = ""

    @property
    def ms(self) -> float:
        """Median latency."""
        return float(np.median(self.samples)) / 1e6

    @property
    def counts(self) -> bool:
        """Whether it ran to the end and its outputs are right."""
        return not self.failure and self.error is not None and self.error <= WRONG


Entries = Mapping[str, Entry]


def compare(name: str, arguments: argparse.Namespace) -> Entries:
    """Convert, load, check and time all contestants on one network."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        subject = prepare(name, folder, arguments.seed)
        field: dict[str, Contestant] = {}
        entries: dict[str, Entry] = {}
        for label, tool, model in _tools(subject, arguments):
            entry = entries[label] = Entry(label)
            try:
                file = _convert(tool, model, folder / label, entry)
                contestant = _load(tool, file, subject, arguments.threads, folder)
                stack.enter_context(contextlib.closing(contestant))
                entry.error = _error(subject, contestant.outputs)
                field[label] = contestant
            except Failed as failure:
                entry.failure = str(failure)
        _run_rounds(field, entries, arguments)
    return entries


def _tools(subject: Subject, arguments: argparse.Namespace) -> Iterator[tuple[str, Tool, Path]]:
    """Yield the contestants with the file each begins with."""
    for name, tool in PEERS.items():
        if name == EXPORT or name in arguments.tools:
            yield name, tool, subject.path
    yield AGAIN, PEERS[EXPORT], subject.path
    if subject.twin is not None:
        yield TWIN, PEERS[EXPORT], subject.twin
    if OURS in arguments.tools:
        shapes = {name: array.shape for name, array in subject.inputs.items()}
        command = ours(arguments.level, arguments.threads, shapes)
        yield OURS, Tool(command=command), subject.path


def _convert(tool: Tool, model: Path, folder: Path, entry: Entry) -> Path:
    folder.mkdir()
    start = time.perf_counter()
    out = tool.convert(model, folder)
    if tool.command is not None:
        entry.seconds = time.perf_counter() - start
    if tool.runtime == "onnxruntime":
        entry.nodes = model_file.count_nodes(model_file.load(out))
    return out


def _load(tool: Tool, file: Path, subject: Subject, threads: int, folder: Path) -> Contestant:
    arrays = folder / "inputs.npz"
    np.savez(arrays, *subject.inputs.values())
    request = {
        "runtime": tool.runtime,
        "model": str(file),
        "inputs": list(subject.inputs),
        "outputs": list(subject.expected),
        "arrays": str(arrays),
        "threads": threads,
    }
    return Contestant(tool.python, request, tool.variables)


def _error(subject: Subject, outputs: Sequence[np.ndarray]) -> float:
    """Largest difference of any output over its range (of one number: over that number)."""
    if len(outputs) != len(subject.expected):
        raise Failed(f"{len(outputs)} outputs instead of {len(subject.expected)}")
    errors = [0.0]
    for want, got in zip(subject.expected.values(), outputs, strict=True):
        if got.size != want.size:
            raise Failed(f"an output of {got.size} elements instead of {want.size}")
        difference = np.abs(got.reshape(want.shape).astype(np.float64) - want).max()
        errors.append(float(difference / (np.ptp(want) or np.abs(want).max() or 1)))
    return float(np.max(errors))  # max() would lose a NaN


def _run_rounds(
    field: dict[str, Contestant], entries: Entries, arguments: argparse.Namespace
) -> None:
    order = np.random.default_rng(arguments.seed)
    start = time.perf_counter()
    for done in range(arguments.rounds or _MOST_ROUNDS):
        spent = time.perf_counter() - start
        if not arguments.rounds and done >= _FEW_ROUNDS and spent > arguments.time_limit:
            break
        for label in order.permutation(list(field)):
            try:
                entries[label].samples.append(field[label].time_inference())
            except Failed as failure:
                entries[label].failure = str(failure)
                field.pop(label).close()


def fastest(entries: Entries, names: Sequence[str]) -> Entry | None:
    """Return the fastest of those that count."""
    counting = [entries[name] for name in names if name in entries and entries[name].counts]
    return min(counting, key=lambda entry: entry.ms, default=None)


def ratio(slow: Entry | None, fast: Entry | None, seed: int) -> Ratio | None:
    """Return the paired ratio of two contestants that count."""
    if slow is None or fast is None or not slow.counts or not fast.counts:
        return None
    return paired_ratio(np.array(slow.samples), np.array(fast.samples), seed)


def print_table(name: str, entries: Entries, seed: int) -> None:
    """Print the rows of one network, fastest first, failures last."""
    rounds = max(len(entry.samples) for entry in entries.values())
    print(f"\n## {name}, {rounds} rounds\n")
    print("| tool | nodes | ms | ratio (95 %) | error | seconds |")
    print("|---" * 6 + "|")
    best = fastest(entries, IN_ONNXRUNTIME)
    for entry in sorted(entries.values(), key=lambda e: np.inf if e.failure else e.ms):
        if entry.failure:
            print(f"| {entry.name} | | failed: {entry.failure} | | | |")
            continue
        base = entries[EXPORT] if entry.name == AGAIN else best
        figure = spell(ratio(base, entry, seed)) if entry.counts else "wrong"
        print(
            f"| {entry.name} | {entry.nodes or ''} | {entry.ms:.2f} "
            f"| {'A/A ' if entry.name == AGAIN else ''}{figure} | {entry.error:.1e} "
            f"| {'' if entry.seconds is None else f'{entry.seconds:.1f}'} |"
        )
    sys.stdout.flush()


def spell(ratio: Ratio | None) -> str:
    """Format a ratio with its interval; nothing for none."""
    return f"{ratio.median:.3f} ({ratio.low:.3f} - {ratio.high:.3f})" if ratio else ""


def print_summary(results: Mapping[str, Entries], seed: int) -> None:
    """Print how many times faster than each peer ours is, network by network."""
    print("\n## Times that advconv-onnx is faster than ...\n")
    print(f"| network | {' | '.join(_AGAINST)} |")
    print("|---" * (len(_AGAINST) + 1) + "|")
    for name, entries in results.items():
        mine = entries.get(OURS)
        peers = (fastest(entries, names) for names in _AGAINST.values())
        cells = " | ".join(spell(ratio(peer, mine, seed)) for peer in peers)
        print(f"| {name} | {cells} |")


def to_json(results: Mapping[str, Entries], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return everything measured, and with which options."""
    networks = {
        name: {label: dataclasses.asdict(entry) for label, entry in entries.items()}
        for name, entries in results.items()
    }
    return {"options": vars(arguments), "networks": networks}


def main() -> None:
    """Run the comparison."""
    tools = [*PEERS, OURS]
    parser = argparse.ArgumentParser(description="Compare optimizers and runtimes on networks.")
    parser.add_argument("--only", nargs="+", default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--tools", nargs="+", default=tools, choices=tools, metavar="NAME")
    parser.add_argument("--level", choices=("fuse", "search"), default="search")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--rounds", type=int, help="exactly so many (default: until the time is over)"
    )
    parser.add_argument(
        "--time-limit", type=float, default=60.0, help="seconds of rounds per network"
    )
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    if unknown := set(arguments.only) - {*NETWORKS, *MODELS}:
        known = ", ".join([*NETWORKS, *MODELS])
        parser.error(f"no network {', '.join(sorted(unknown))}; choose of {known}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # which removes files and processes
    logging.disable(logging.WARNING)  # torch.onnx tells what else could be installed
    results: dict[str, Entries] = {}
    for name in arguments.only:
        try:
            results[name] = compare(name, arguments)
        except AdvconvError as error:
            print(f"\n## {name}\n\nNot compared: {error}", flush=True)
            continue
        print_table(name, results[name], arguments.seed)
        if arguments.json:  # after each, as a run takes long
            Path(arguments.json).write_text(json.dumps(to_json(results, arguments)))
    print_summary(results, arguments.seed)


if __name__ == "__main__":
    main()
