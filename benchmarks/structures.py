"""Time convolutions against what the rules about their structure make of them, and where not.

    python benchmarks/structures.py [--threads N] [--seed N] [--only WORD]

Weights are drawn for each: time does not depend on them. Prints a row per pair: median latency
before and after the rewrite, and how many times as fast it makes the model. The rows that a rule
refuses show why it does.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.parser

from advconv_onnx.runtime.timing import measure

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two models from ``x`` to ``y``, and the shapes of their weights."""

    name: str
    x: Shape
    before: str
    after: str
    weights: Mapping[str, Shape]


def _pads(kernel: int, rank: int = 2) -> str:
    return f"pads = [{', '.join([str(kernel // 2)] * 2 * rank)}]"


def _transposed() -> Iterator[Pair]:
    for inputs, outputs, groups, size in (
        (64, 64, 1, 28),
        (16, 16, 1, 56),
        (3, 32, 1, 56),
        (64, 64, 64, 28),
        (64, 64, 4, 28),
        (8, 8, 2, 28),
        (64, 12, 1, 28),
        (16, 1, 1, 56),
    ):
        attributes = f"group = {groups}, {_pads(3)}"
        yield Pair(
            f"conv_of_transposed: {inputs} -> {outputs}, {groups} groups",
            (1, inputs, size, size),
            f"y = ConvTranspose <{attributes}> (x, w)",
            f"y = Conv <{attributes}> (x, v)",
            {"w": (inputs, outputs // groups, 3, 3), "v": (outputs, inputs // groups, 3, 3)},
        )


def _parts() -> Iterator[Pair]:
    for parts, channels, kernel in (
        (4, 16, 3),
        (2, 32, 3),
        (8, 1, 3),
        (2, 64, 1),
        (2, 8, 1),
        (2, 8, 3),
        (2, 12, 3),
    ):
        names = range(parts)
        convs = " ".join(f"c{i} = Conv <{_pads(kernel)}> (s{i}, w{i})" for i in names)
        part = (channels, channels, kernel, kernel)
        yield Pair(
            f"merge_split_convs: {parts} x {channels}, {kernel}x{kernel}",
            (1, parts * channels, 28, 28),
            f"{', '.join(f's{i}' for i in names)} = Split <axis = 1, num_outputs = {parts}> (x)"
            f" {convs} y = Concat <axis = 1> ({', '.join(f'c{i}' for i in names)})",
            f"y = Conv <group = {parts}, {_pads(kernel)}> (x, w)",
            {"w": (parts * channels, *part[1:])} | {f"w{i}": part for i in names},
        )


def _parallel() -> Iterator[Pair]:
    for one, other, kernel in ((16, 16, 3), (32, 32, 1), (3, 5, 3), (1, 2, 1)):
        yield Pair(
            f"merge_parallel_convs: 64 -> {one} and {other}, {kernel}x{kernel}",
            (1, 64, 28, 28),
            f"a = Conv <{_pads(kernel)}> (x, v) c = Conv <{_pads(kernel)}> (x, w)"
            " y = Concat <axis = 1> (a, c)",
            f"y = Conv <{_pads(kernel)}> (x, u)",
            {
                "v": (one, 64, kernel, kernel),
                "w": (other, 64, kernel, kernel),
                "u": (one + other, 64, kernel, kernel),
            },
        )


def _branches() -> Iterator[Pair]:
    for groups in (1, 64):
        attributes = f"group = {groups}"
        yield Pair(
            f"merge_branches: 3x3, 1x1 and identity, {groups} groups",
            (1, 64, 28, 28),
            f"a = Conv <{attributes}, {_pads(3)}> (x, w) c = Conv <{attributes}> (x, v)"
            " d = Add (a, c) y = Add (d, x)",
            f"y = Conv <{attributes}, {_pads(3)}> (x, w)",
            {"w": (64, 64 // groups, 3, 3), "v": (64, 64 // groups, 1, 1)},
        )


def _kernels() -> Iterator[Pair]:
    for op, channels, groups in (("Conv", 64, 1), ("Conv", 64, 64), ("ConvTranspose", 32, 1)):
        weights = {
            "w": (channels, channels // groups, 5, 5),
            "v": (channels, channels // groups, 3, 3),
        }
        for kind, after in (
            ("border", _pads(3)),
            ("zeros between", f"{_pads(5)}, dilations = [2, 2]"),
        ):
            yield Pair(
                f"trim_kernel: {kind}, {op}, {groups} groups",
                (1, channels, 28, 28),
                f"y = {op} <group = {groups}, {_pads(5)}> (x, w)",
                f"y = {op} <group = {groups}, {after}> (x, v)",
                weights,
            )


def _diagonal() -> Iterator[Pair]:
    for groups, channels, kernel in (
        (2, 16, 3),
        (4, 16, 3),
        (8, 1, 3),
        (16, 1, 1),
        (16, 4, 3),
        (4, 8, 3),
        (4, 12, 3),
        (8, 2, 3),
    ):
        total = groups * channels
        yield Pair(
            f"group_block_diagonal: {groups} x {channels}, {kernel}x{kernel}",
            (1, total, 28, 28),
            f"y = Conv <{_pads(kernel)}> (x, w)",
            f"y = Conv <group = {groups}, {_pads(kernel)}> (x, v)",
            {"w": (total, total, kernel, kernel), "v": (total, channels, kernel, kernel)},
        )
    yield Pair(
        "group_block_diagonal: 2 x 4, one axis",
        (1, 8, 300),
        f"y = Conv <{_pads(3, 1)}> (x, w)",
        f"y = Conv <group = 2, {_pads(3, 1)}> (x, v)",
        {"w": (8, 8, 3), "v": (8, 4, 3)},
    )


def _dead() -> Iterator[Pair]:
    for before, after in ((64, 16), (64, 48), (128, 112), (40, 32), (17, 16)):
        body = "a = Conv <{p}> (x, {w}) c = Relu (a) y = Conv <{p}> (c, {v})"
        yield Pair(
            f"drop_dead_channels: {before} to {after}",
            (1, 32, 28, 28),
            body.format(p=_pads(3), w="w", v="v"),
            body.format(p=_pads(3), w="s", v="t"),
            {
                "w": (before, 32, 3, 3),
                "v": (64, before, 3, 3),
                "s": (after, 32, 3, 3),
                "t": (64, after, 3, 3),
            },
        )


def _dead_taps() -> Iterator[Pair]:
    for channels, groups, size, dilation in (
        (64, 1, 17, 18),
        (256, 1, 17, 24),
        (64, 64, 17, 18),
        (64, 1, 1, 1),
        (256, 256, 1, 1),
    ):
        attributes = f"dilations = [{dilation}, {dilation}], {_pads(2 * dilation + 1)}"
        yield Pair(
            f"drop_dead_taps: {channels} channels, {groups} groups, {size}x{size},"
            f" dilated by {dilation}",
            (1, channels, size, size),
            f"y = Conv <group = {groups}, {attributes}> (x, w)",
            f"y = Conv <group = {groups}> (x, v)",
            {
                "w": (channels, channels // groups, 3, 3),
                "v": (channels, channels // groups, 1, 1),
            },
        )


def _phases() -> Iterator[Pair]:
    swap = "Transpose <perm = [1, 0, 2, 3]>"
    for channels, size in ((64, 32), (256, 32)):
        yield Pair(
            f"dilate_space_to_batch: {channels} channels, 2x2 phases",
            (1, channels, size, size),
            f"a = {swap} (x) c = Pad <pads = [0, 0, 2, 2, 0, 0, 2, 2]> (a)"
            f" d = SpaceToDepth <blocksize = 2> (c) e = {swap} (d) f = Conv (e, w) g = {swap} (f)"
            f" h = DepthToSpace <blocksize = 2> (g) y = {swap} (h)",
            "y = Conv <dilations = [2, 2], pads = [2, 2, 2, 2]> (x, w)",
            {"w": (channels, channels, 3, 3)},
        )


def _composed() -> Iterator[Pair]:
    conv, depthwise = "Conv <pads = [1, 1, 1, 1]>", "Conv <group = {g}, pads = [1, 1, 1, 1]>"
    for name, first, second, one, weights in (
        ("3x3, 1x1", conv, "Conv", conv, ((64, 32, 3, 3), (32, 64, 1, 1), (32, 32, 3, 3))),
        ("1x1, 3x3", "Conv", conv, conv, ((64, 32, 1, 1), (64, 64, 3, 3), (64, 32, 3, 3))),
        (
            "2 groups of 3x3, of 1x1",
            depthwise.format(g=2),
            "Conv <group = 2>",
            depthwise.format(g=2),
            ((64, 16, 3, 3), (32, 32, 1, 1), (32, 16, 3, 3)),
        ),
        (
            "ConvTranspose, 1x1",
            "ConvTranspose <strides = [2, 2]>",
            "Conv",
            "ConvTranspose <strides = [2, 2]>",
            ((32, 32, 2, 2), (16, 32, 1, 1), (32, 16, 2, 2)),
        ),
        (
            "depthwise, 1x1 to one channel",
            depthwise.format(g=32),
            "Conv",
            conv,
            ((32, 1, 3, 3), (1, 32, 1, 1), (1, 32, 3, 3)),
        ),
        (
            "depthwise, 4 groups of 1x1",
            depthwise.format(g=32),
            "Conv <group = 4>",
            depthwise.format(g=4),
            ((32, 1, 3, 3), (4, 8, 1, 1), (4, 8, 3, 3)),
        ),
    ):
        yield Pair(
            f"compose_pointwise: {name}",
            (1, 32, 56, 56),
            f"a = {first} (x, v) y = {second} (a, w)",
            f"y = {one} (x, u)",
            dict(zip("vwu", weights, strict=True)),
        )


def pairs() -> Iterator[Pair]:
    """All pairs, rule by rule."""
    yield from _transposed()
    yield from _branches()
    yield from _parts()
    yield from _parallel()
    yield from _kernels()
    yield from _diagonal()
    yield from _dead()
    yield from _dead_taps()
    yield from _phases()
    yield from _composed()


def write(pair: Pair, body: str, path: Path, rng: np.random.Generator) -> Path:
    """Write one side of a pair."""
    opset = 10 if "Pad <" in body else 18
    shape = ", ".join(map(str, pair.x))
    outputs = ", ".join(["N", "C", "H", "W"][: len(pair.x)])
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {opset}]>
        g (float[{shape}] x) => (float[{outputs}] y) {{ {body} }}"""
    )
    used = {name for node in model.graph.node for name in node.input}
    for name in sorted(used & set(pair.weights)):
        array = rng.normal(size=pair.weights[name]).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, path)
    return path


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description="Compare convolutions of two structures.")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="pairs whose name contains this")
    arguments = parser.parse_args()
    print("| rule | before, ms | after, ms | A/A (95 %) | speedup (95 %) |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for pair in pairs():
            if arguments.only not in pair.name:
                continue
            rng = np.random.default_rng(arguments.seed)
            models = {
                name: write(pair, body, Path(folder, f"{name}.onnx"), rng)
                for name, body in (("before", pair.before), ("after", pair.after))
            }
            found = measure(
                models,
                {"x": rng.normal(size=pair.x).astype(np.float32)},
                threads=arguments.threads,
                seed=arguments.seed,
                time_limit=5,
            )
            before, after = found.timings
            noise, gain = (
                f"{r.median:.2f} ({r.low:.2f} - {r.high:.2f})" for r in (found.noise, after.speedup)
            )
            print(
                f"| {pair.name} | {before.latency.median:.3f} | {after.latency.median:.3f} "
                f"| {noise} | {gain} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
