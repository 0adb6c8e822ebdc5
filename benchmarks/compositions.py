"""Time two convolutions against the one they compose to: why a rule composes where it does.

    python benchmarks/compositions.py [--threads N] [--seed N]

Weights are drawn for each: time does not depend on them. Prints a row per pair: median latency of
both, and how many times as fast the composed one is.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx.parser

from advconv_onnx.runtime.timing import measure

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two convolutions with weights ``v`` and ``w``, and one with weight ``u``."""

    name: str
    channels: int
    two: str
    one: str
    v: Shape
    w: Shape
    u: Shape


PAIRS = (
    Pair(
        "3x3 32 -> 64, 1x1 64 -> 32",
        32,
        "a = Conv <pads = [1, 1, 1, 1]> (x, v) y = Conv (a, w)",
        "y = Conv <pads = [1, 1, 1, 1]> (x, u)",
        (64, 32, 3, 3),
        (32, 64, 1, 1),
        (32, 32, 3, 3),
    ),
    Pair(
        "1x1 32 -> 64, 3x3 64 -> 64",
        32,
        "a = Conv (x, v) y = Conv <pads = [1, 1, 1, 1]> (a, w)",
        "y = Conv <pads = [1, 1, 1, 1]> (x, u)",
        (64, 32, 1, 1),
        (64, 64, 3, 3),
        (64, 32, 3, 3),
    ),
    Pair(
        "2 groups: 3x3 32 -> 64, 1x1 64 -> 32",
        32,
        "a = Conv <group = 2, pads = [1, 1, 1, 1]> (x, v) y = Conv <group = 2> (a, w)",
        "y = Conv <group = 2, pads = [1, 1, 1, 1]> (x, u)",
        (64, 16, 3, 3),
        (32, 32, 1, 1),
        (32, 16, 3, 3),
    ),
    Pair(
        "ConvTranspose 64 -> 32, 1x1 32 -> 16",
        64,
        "a = ConvTranspose <strides = [2, 2]> (x, v) y = Conv (a, w)",
        "y = ConvTranspose <strides = [2, 2]> (x, u)",
        (64, 32, 2, 2),
        (16, 32, 1, 1),
        (64, 16, 2, 2),
    ),
    Pair(
        "depthwise 32, 1x1 32 -> 1",
        32,
        "a = Conv <group = 32, pads = [1, 1, 1, 1]> (x, v) y = Conv (a, w)",
        "y = Conv <pads = [1, 1, 1, 1]> (x, u)",
        (32, 1, 3, 3),
        (1, 32, 1, 1),
        (1, 32, 3, 3),
    ),
    Pair(
        "depthwise 64, 8 groups 1x1 64 -> 8",
        64,
        "a = Conv <group = 64, pads = [1, 1, 1, 1]> (x, v) y = Conv <group = 8> (a, w)",
        "y = Conv <group = 8, pads = [1, 1, 1, 1]> (x, u)",
        (64, 1, 3, 3),
        (8, 8, 1, 1),
        (8, 8, 3, 3),
    ),
)


def write(pair: Pair, body: str, path: Path, rng: np.random.Generator) -> Path:
    """Write a model of 56x56 pixels."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 18]>
        g (float[1, {pair.channels}, 56, 56] x) => (float[N, C, H, W] y) {{ {body} }}"""
    )
    for name in sorted({node.input[1] for node in model.graph.node}):
        array = rng.normal(size=getattr(pair, name)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, path)
    return path


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description="Compare two convolutions with their composition.")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(
        "| convolutions | two, ms | one, ms | A/A (95 %) | speedup (95 %) |\n|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for pair in PAIRS:
            rng = np.random.default_rng(arguments.seed)
            models = {
                name: write(pair, body, Path(folder, f"{name}.onnx"), rng)
                for name, body in (("two", pair.two), ("one", pair.one))
            }
            x = rng.normal(size=(1, pair.channels, 56, 56)).astype(np.float32)
            found = measure(
                models, {"x": x}, threads=arguments.threads, seed=arguments.seed, time_limit=10
            )
            two, one = found.timings
            noise, gain = (
                f"{r.median:.2f} ({r.low:.2f} - {r.high:.2f})" for r in (found.noise, one.speedup)
            )
            print(
                f"| {pair.name} | {two.latency.median:.3f} | {one.latency.median:.3f} "
                f"| {noise} | {gain} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
