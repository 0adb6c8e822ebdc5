"""Time equal spellings of one block against each other: why the rules spell as they do.

    python benchmarks/spellings.py [--threads N] [--seed N] [--block NAME]...

Each block stands between two convolutions, so that leaving ONNX Runtime's blocked layout shows.
Prints a row per spelling: median latency, and speedup over the first spelling of its block.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray

from advconv_onnx.runtime.timing import measure

_GATE = """p = GlobalAveragePool (a) q = Conv (p, squeeze) r = Relu (q) s = Conv (r, expand)
    g = HardSigmoid (s)"""

_SPLIT = "value_ints = [1, 2, 2, {quarter}, {height}, {width}]"
_LARGE = "value_ints = [1, {quarter}, {twice_height}, {twice_width}]"
_APART = "value_ints = [1, {channels}, {height}, 2, {width}, 2]"
_DEEP = "value_ints = [1, {fourfold}, {height}, {width}]"
_WHOLE = "value_ints = [1, {channels}, {height}, {width}]"
_GROUPS = "value_ints = [1, 4, {quarter}, {height}, {width}]"
# What brings the size back between the two convolutions of a model, at the same cost for all.
_SHRUNK = """f = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (e)
    b = Concat <axis = 1> (f, f, f, f)"""
_ENLARGED = """u = Constant <value_floats = [1.0, 1.0, 2.0, 2.0]> ()
    c = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric",
    nearest_mode = "floor"> (a, , u)"""
_FIRST = "b, g, h, i = Split <axis = 1> (f)"

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
    "ReLU6": {
        "Relu-Min": "c = Relu (a) b = Min (c, six)",
        "Clip": "b = Clip (a, zero, six)",
    },
    "hard sigmoid": {
        "Add-Clip-Div": "c = Add (a, three) d = Clip (c, zero, six) b = Div (d, six)",
        "HardSigmoid": "b = HardSigmoid <alpha = 0.16666667> (a)",
    },
    "sigmoid": {
        "Neg-Exp-Add-Div": "c = Neg (a) d = Exp (c) e = Add (d, one) b = Div (one, e)",
        "Sigmoid": "b = Sigmoid (a)",
    },
    "one slope": {
        "Max": "c = Mul (a, half) b = Max (a, c)",
        "Where": "c = Mul (a, half) d = Greater (a, zero) b = Where (d, a, c)",
        "PRelu": "b = PRelu (a, half)",
        "LeakyRelu": "b = LeakyRelu <alpha = 0.5> (a)",
    },
    "slopes per channel": {
        "PRelu": "b = PRelu (a, slopes)",
        "Relu-Neg-Relu-Mul-Sub": "c = Relu (a) d = Neg (a) e = Relu (d) f = Mul (e, slopes)"
        " b = Sub (c, f)",
        "Relu-Clip-Mul-Add": "c = Relu (a) d = Clip (a, , zero) e = Mul (d, slopes) b = Add (c, e)",
        "Max": "c = Mul (a, slopes) b = Max (a, c)",
    },
    "Mish": {
        "Softplus-Tanh-Mul": "c = Softplus (a) d = Tanh (c) b = Mul (a, d)",
        "one exponential": "c = Clip (a, , forty) d = Exp (c) e = Add (d, two) f = Mul (d, e)"
        " g = Add (f, two) h = Div (f, g) b = Mul (a, h)",
    },
    "square": {"Pow": "b = Pow (a, two)", "Mul": "b = Mul (a, a)"},
    "square root": {
        "Pow": "c = Relu (a) b = Pow (c, half)",
        "Sqrt": "c = Relu (a) b = Sqrt (c)",
    },
    "Softmax over channels": {
        "axis 1": "b = Softmax <axis = 1> (a)",
        "axes behind merged": "c = Reshape (a, merged) d = Softmax <axis = 1> (c)"
        " e = Shape (a) b = Reshape (d, e)",
        "Exp-ReduceSum-Div": "c = ReduceMax <axes = [1]> (a) d = Sub (a, c) e = Exp (d)"
        " f = ReduceSum (e, channel) b = Div (e, f)",
    },
    "instance normalization": {
        "ReduceMean-Sub-Mul-ReduceMean-Add-Sqrt-Div": "m = ReduceMean <axes = [2, 3]> (a)"
        " c = Sub (a, m) d = Mul (c, c) v = ReduceMean <axes = [2, 3]> (d) e = Add (v, half)"
        " f = Sqrt (e) b = Div (c, f)",
        "InstanceNormalization": "b = InstanceNormalization <epsilon = 0.5> (a, ones, zeros)",
    },
    "normalization as scale and shift": {
        "twelve operators": "m = ReduceMean <axes = [2, 3]> (a) c = Sub (a, m) d = Mul (c, c)"
        " v = ReduceMean <axes = [2, 3]> (d) e = Add (v, half) f = Sqrt (e) i = Reciprocal (f)"
        " r = Mul (i, slopes) t = Mul (r, m) u = Sub (two, t) y0 = Mul (a, r) b = Add (y0, u)",
        "InstanceNormalization": "b = InstanceNormalization <epsilon = 0.5> (a, gains, twos)",
    },
    "normalization over channels": {
        "ReduceMean-Sub-Mul-ReduceMean-Add-Sqrt-Div": "m = ReduceMean <axes = [1]> (a)"
        " c = Sub (a, m) d = Mul (c, c) v = ReduceMean <axes = [1]> (d) e = Add (v, half)"
        " f = Sqrt (e) b = Div (c, f)",
        "Transpose-LayerNormalization-Transpose": "c = Transpose <perm = [0, 2, 3, 1]> (a)"
        " d = LayerNormalization <epsilon = 0.5> (c, ones)"
        " b = Transpose <perm = [0, 3, 1, 2]> (d)",
    },
    "mean over the image": {
        "ReduceMean": "b = ReduceMean <axes = [2, 3]> (a)",
        "GlobalAveragePool": "b = GlobalAveragePool (a)",
    },
    "mean over the image, outside the layout": {
        "ReduceMean": "c = Elu (a) b = ReduceMean <axes = [2, 3]> (c)",
        "GlobalAveragePool": "c = Elu (a) b = GlobalAveragePool (c)",
    },
    "nearest enlargement": {
        "Reshape-Expand-Reshape": "c = Reshape (a, open) d = Expand (c, twice)"
        " b = Reshape (d, close)",
        "Resize": 'b = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", '
        'nearest_mode = "floor"> (a, , doubling)',
    },
    "squeeze-and-excite gate": {
        "broadcast Mul": f"{_GATE} b = Mul (a, g)",
        "gate resized to the image": f'{_GATE} h = Resize <mode = "nearest", '
        'coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (g, , scales)'
        " b = Mul (a, h)",
    },
    "pixel shuffle": {
        "Reshape-Transpose-Reshape": f"s = Constant <{_SPLIT}> () t = Constant <{_LARGE}> ()"
        " c = Reshape (a, s) d = Transpose <perm = [0, 3, 4, 1, 5, 2]> (c) e = Reshape (d, t)"
        f" {_SHRUNK}",
        "DepthToSpace": f"e = DepthToSpace <blocksize = 2> (a) {_SHRUNK}",
    },
    "inverse pixel shuffle": {
        "Reshape-Transpose-Reshape": f"{_ENLARGED} s = Constant <{_APART}> ()"
        f" t = Constant <{_DEEP}> () d = Reshape (c, s)"
        " e = Transpose <perm = [0, 3, 5, 1, 2, 4]> (d) f = Reshape (e, t)"
        f" {_FIRST}",
        "SpaceToDepth": f"{_ENLARGED} f = SpaceToDepth <blocksize = 2> (c) {_FIRST}",
        "torch's order": f"{_ENLARGED} s = Constant <{_APART}> () t = Constant <{_DEEP}> ()"
        " d = Reshape (c, s) e = Transpose <perm = [0, 1, 3, 5, 2, 4]> (d) f = Reshape (e, t)"
        f" {_FIRST}",
        "torch's order, SpaceToDepth-Gather": f"{_ENLARGED} d = SpaceToDepth <blocksize = 2> (c)"
        " s = Constant <value_ints = {unshuffled}> () f = Gather <axis = 1> (d, s)"
        f" {_FIRST}",
    },
    "channel shuffle": {
        "Reshape-Transpose-Reshape": f"s = Constant <{_GROUPS}> () t = Constant <{_WHOLE}> ()"
        " c = Reshape (a, s) d = Transpose <perm = [0, 2, 1, 3, 4]> (c) b = Reshape (d, t)",
        "Gather": "s = Constant <value_ints = {shuffled}> () b = Gather <axis = 1> (a, s)",
    },
}

SHAPES = ((32, 160, 160), (96, 160, 160), (480, 6, 80), (200, 2, 96))


def write(body: str, shape: tuple[int, int, int], path: Path, seed: int) -> Path:
    """Write a model: 1x1 convolution, the block from ``a`` to ``b``, depthwise convolution."""
    channels, height, width = shape
    opset = 24 if "Swish (a)" in body and "Hard" not in body else 17
    size = f"1, {channels}, {height}, {width}"
    nodes = body.format(
        channels=channels,
        height=height,
        width=width,
        quarter=channels // 4,
        twice_height=2 * height,
        twice_width=2 * width,
        fourfold=4 * channels,
        unshuffled=np.arange(4 * channels).reshape(4, -1).T.reshape(-1).tolist(),
        shuffled=np.arange(channels).reshape(4, -1).T.reshape(-1).tolist(),
    )
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : {opset}]>
        g (float[{size}] x) => (float[1, {channels}, P, Q] y)
        {{ a = Conv (x, w) {nodes} y = Conv <group = {channels}, pads = [1, 1, 1, 1]> (b, d3) }}"""
    )
    rng = np.random.default_rng(seed)
    weights = {
        "w": rng.normal(size=(channels, channels, 1, 1)) / channels**0.5,
        "d3": rng.normal(size=(channels, 1, 3, 3)) / 3,
        "squeeze": rng.normal(size=(channels // 4, channels, 1, 1)) / channels**0.5,
        "expand": rng.normal(size=(channels, channels // 4, 1, 1)) / channels**0.5,
        "ones": np.ones(channels),
        "zeros": np.zeros(channels),
        "twos": np.full(channels, 2.0),
        "gains": np.linspace(-0.5, 1, channels),
        "slopes": np.linspace(-0.5, 1, channels).reshape(-1, 1, 1),
        "scales": np.array([1, 1, height, width]),
        "doubling": np.array([1, 1, 2, 2]),
        "zero": np.array(0.0),
        "half": np.array(0.5),
        "one": np.array(1.0),
        "two": np.array(2.0),
        "forty": np.array(40.0),
        "three": np.array(3.0),
        "six": np.array(6.0),
    }
    integers = {
        "merged": [0, 0, -1],
        "channel": [1],
        "open": [1, channels, height, 1, width, 1],
        "twice": [1, 1, 1, 2, 1, 2],
        "close": [1, channels, 2 * height, 2 * width],
    }
    arrays: dict[str, NDArray[Any]] = {name: a.astype(np.float32) for name, a in weights.items()}
    arrays |= {name: np.array(numbers) for name, numbers in integers.items()}
    used = {name for node in model.graph.node for name in node.input}
    for name, array in arrays.items():
        if name in used:
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, path)
    return path


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description="Compare spellings of one block.")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--block", choices=BLOCKS, nargs="*", default=list(BLOCKS))
    arguments = parser.parse_args()
    print("| block | shape | spelling | ms | speedup (95 %) |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for block in arguments.block:
            spellings = BLOCKS[block]
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
