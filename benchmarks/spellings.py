"""Time equal spellings of one block against each other: why the rules spell as they do.

    python benchmarks/spellings.py [--threads N] [--seed N]

Each block stands between two convolutions, so that leaving ONNX Runtime's blocked layout shows.
Prints a row per spelling: median latency, and speedup over the first spelling of its block.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.parser

from advconv_onnx.runtime.timing import measure

_GATE = """p = GlobalAveragePool (a) q = Conv (p, squeeze) r = Relu (q) s = Conv (r, expand)
    g = HardSigmoid (s)"""

BLOCKS: Mapping[str, Mapping[str, str]] = {
    "SiLU": {
        "Mul-Sigmoid": "g = Sigmoid (a) b = Mul (a, g)",
        "Swish": "b = Swish (a)",
    },
    "hard-swish": {
        "Add-Clip-Mul-Div": "c = Add (a, three) d = Clip (c, zero, six) e = Mul (a, d)"
        " b = Div (e, six)",
        "HardSwish": "b = HardSwish (a)",
    },
    "affine after an activation": {
        "Mul-Add": "c = HardSwish (a) d = Mul (c, half) b = Add (d, three)",
        "BatchNormalization": "c = HardSwish (a)"
        " b = BatchNormalization (c, ones, ones, ones, ones)",
    },
    "squeeze-and-excite gate": {
        "broadcast Mul": f"{_GATE} b = Mul (a, g)",
        "gate resized to the image": f'{_GATE} h = Resize <mode = "nearest", '
        'coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (g, , scales)'
        " b = Mul (a, h)",
    },
}

SHAPES = ((32, 160, 160), (96, 160, 160), (480, 6, 80), (200, 2, 96))


def write(body: str, shape: tuple[int, int, int], path: Path, seed: int) -> Path:
    """Write a model: 1x1 convolution, the block from ``a`` to ``b``, depthwise convolution."""
    channels, height, width = shape
    opset = 24 if "Swish (a)" in body and "Hard" not in body else 14
    size = f"1, {channels}, {height}, {width}"
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : {opset}]> g (float[{size}] x) => (float[{size}] y)
        {{ a = Conv (x, w) {body} y = Conv <group = {channels}, pads = [1, 1, 1, 1]> (b, d3) }}"""
    )
    rng = np.random.default_rng(seed)
    weights = {
        "w": rng.normal(size=(channels, channels, 1, 1)) / channels**0.5,
        "d3": rng.normal(size=(channels, 1, 3, 3)) / 3,
        "squeeze": rng.normal(size=(channels // 4, channels, 1, 1)) / channels**0.5,
        "expand": rng.normal(size=(channels, channels // 4, 1, 1)) / channels**0.5,
        "ones": np.ones(channels),
        "scales": np.array([1, 1, height, width]),
        "zero": np.array(0.0),
        "half": np.array(0.5),
        "three": np.array(3.0),
        "six": np.array(6.0),
    }
    used = {name for node in model.graph.node for name in node.input}
    for name, array in weights.items():
        if name in used:
            tensor = onnx.numpy_helper.from_array(array.astype(np.float32), name)
            model.graph.initializer.append(tensor)
    onnx.save(model, path)
    return path


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description="Compare spellings of one block.")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print("| block | shape | spelling | ms | speedup (95 %) |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for block, spellings in BLOCKS.items():
            for shape in SHAPES:
                models = {
                    name: write(body, shape, Path(folder, f"{i}.onnx"), arguments.seed)
                    for i, (name, body) in enumerate(spellings.items())
                }
                x = np.random.default_rng(arguments.seed).normal(size=(1, *shape))
                found = measure(
                    models,
                    {"x": x.astype(np.float32)},
                    threads=arguments.threads,
                    seed=arguments.seed,
                    time_limit=10,
                )
                for timing in found.timings:
                    ratio = found.noise if timing is found.timings[0] else timing.speedup
                    label = "A/A " if timing is found.timings[0] else ""
                    print(
                        f"| {block} | {'x'.join(map(str, shape))} | {timing.name} "
                        f"| {timing.latency.median:.3f} | {label}{ratio.median:.2f} "
                        f"({ratio.low:.2f} - {ratio.high:.2f}) |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
