"""Single layers, every form of each against ONNX Runtime's own kernels, in their surroundings.

    python benchmarks/forms.py [--only TEXT] [--threads N] [--seed N] [--seconds S]

A layer is timed as the search times it: between cheap 1x1 convolutions that keep ONNX Runtime's
blocked layout. "error" is that of the layer alone against float64, relative to the output's range;
for the layer as it is, it is ONNX Runtime's own. The A/A column is the layer against itself.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx.optimizer.contest import Contest, apply, find_choices, site_contests
from advconv_onnx.optimizer.prove import Prover
from advconv_onnx.records import Ratio
from advconv_onnx.rewriter.forms import all_forms
from advconv_onnx.rewriter.simplify import settle
from advconv_onnx.runtime.timing import measure
from advconv_onnx.runtime.validate import validate, validate_runtime

_NEAREST = 'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'
_LINEAR = 'mode = "linear", coordinate_transformation_mode = "{}"'


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer on images of a fixed size.

    Attributes:
        x: shape of the input.
        w: shape of the weight.
        body: ONNX text from ``x`` and ``skip`` to ``y``, with ``w`` and ``b`` and scales ``s``.
        skip: shape of a second input, empty for none.
    """

    name: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    body: str
    skip: tuple[int, ...] = ()


def layers() -> Iterator[Layer]:
    """The layers, kind by kind."""
    for c, m, size in (
        *((64, 64, 56), (64, 64, 256), (128, 128, 28), (128, 128, 64), (256, 256, 14)),
        *((256, 256, 32), (512, 256, 32), (512, 512, 7), (512, 512, 16), (512, 512, 33)),
    ):
        body = "y = Conv <pads = [1, 1, 1, 1]> (x, w, b)"
        yield Layer(f"3x3, {c} to {m}, {size} px", (1, c, size, size), (m, c, 3, 3), body)
    for c, k, size in ((128, 5, 28), (64, 7, 56)):
        body = f"y = Conv <pads = [{k // 2}, {k // 2}, {k // 2}, {k // 2}]> (x, w, b)"
        yield Layer(f"{k}x{k}, {c}, {size} px", (1, c, size, size), (c, c, k, k), body)
    for c, size in ((128, 56), (256, 28)):
        body = "y = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w, b)"
        yield Layer(f"3x3 stride 2, {c}, {size} px", (1, c, size, size), (c, c, 3, 3), body)
    for c, m, d, size in ((256, 256, 2, 33), (512, 512, 4, 33), (2048, 256, 12, 33)):
        body = f"y = Conv <pads = [{d}, {d}, {d}, {d}], dilations = [{d}, {d}]> (x, w, b)"
        yield Layer(f"3x3 rate {d}, {c} to {m}, {size} px", (1, c, size, size), (m, c, 3, 3), body)
    for mode, attributes in (
        ("nearest", _NEAREST),
        ("linear", _LINEAR.format("half_pixel")),
        ("linear aligned", _LINEAR.format("align_corners")),
    ):
        for c, m, size in ((512, 256, 16), (256, 128, 32), (128, 64, 64), (64, 32, 128)):
            body = f"u = Resize <{attributes}> (x, , s) y = Conv <pads = [1, 1, 1, 1]> (u, w, b)"
            name = f"{mode} x2 + 3x3, {c} to {m}, {size} px"
            yield Layer(name, (1, c, size, size), (m, c, 3, 3), body)
    for c, size in ((512, 16), (256, 32), (128, 64), (64, 128)):
        body = (
            f"u = Resize <{_LINEAR.format('align_corners')}> (x, , s)"
            " k = Concat <axis = 1> (skip, u) y = Conv <pads = [1, 1, 1, 1]> (k, w, b)"
        )
        name = f"linear aligned x2, Concat + 3x3, {c}, {size} px"
        skip = (1, c, 2 * size, 2 * size)
        yield Layer(name, (1, c, size, size), (c, 2 * c, 3, 3), body, skip)
    for c, m, k, s, size in (
        *((512, 256, 4, 2, 4), (256, 128, 4, 2, 8), (128, 64, 4, 2, 16), (64, 3, 4, 2, 32)),
        *((1024, 512, 2, 2, 16), (128, 64, 2, 2, 128), (256, 256, 3, 2, 28), (64, 64, 8, 4, 32)),
    ):
        pads = f"pads = [{(k - s) // 2}, {(k - s) // 2}, {(k - s) // 2}, {(k - s) // 2}]"
        body = f"y = ConvTranspose <{pads}, strides = [{s}, {s}]> (x, w, b)"
        name = f"transposed {k}x{k} stride {s}, {c} to {m}, {size} px"
        yield Layer(name, (1, c, size, size), (c, m, k, k), body)
    for c, g, size in ((128, 32, 56), (256, 32, 28), (512, 32, 14), (1024, 32, 7)):
        body = f"y = Conv <pads = [1, 1, 1, 1], group = {g}> (x, w, b)"
        yield Layer(f"{g} groups, {c}, {size} px", (1, c, size, size), (c, c // g, 3, 3), body)


def graph(layer: Layer, seed: int) -> ir.Model:
    """The layer between 1x1 convolutions, with random weights."""
    rng = np.random.default_rng(seed)
    inputs = ", ".join(
        f"float[{', '.join(map(str, shape))}] {name}_in"
        for name, shape in (("x", layer.x), ("skip", layer.skip))
        if shape
    )
    feeds = " ".join(
        f"{name}_f = Conv ({name}_in, {name}_w) {name} = Relu ({name}_f)"
        for name, shape in (("x", layer.x), ("skip", layer.skip))
        if shape
    )
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 18]>
        g ({inputs}) => (float[N, M, P, Q] z)
        {{ {feeds} {layer.body} r = Relu (y) z = Conv (r, z_w) }}"""
    )
    transposed = "ConvTranspose" in layer.body
    outputs = layer.w[1] if transposed else layer.w[0]
    shapes = {"w": layer.w, "b": (outputs,), "z_w": (16, outputs, 1, 1)}
    shapes |= {f"{n}_w": (s[1], s[1], 1, 1) for n, s in (("x", layer.x), ("skip", layer.skip)) if s}
    used = {name for node in model.graph.node for name in node.input}
    for name, shape in shapes.items():
        if name in used:
            fan_in = np.prod(shape[1:]) if len(shape) > 1 else 1
            array = rng.normal(size=shape, scale=(2 / fan_in) ** 0.5).astype(np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    if "s" in used:
        scales = np.array([1, 1, 2, 2], np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(scales, "s"))
    return settle(ir.from_proto(model))


def rows(layer: Layer, arguments: argparse.Namespace) -> Iterator[str]:
    """Markdown rows: the layer as it is, then its forms, the fastest first."""
    model = graph(layer, arguments.seed)
    prover = Prover(dict(model.opset_imports), arguments.seed)
    choices, _ = find_choices(model, all_forms("cpu"), prover)
    for contest in site_contests(model, choices):
        yield from _contest(layer, model, contest, arguments)


def _contest(
    layer: Layer, model: ir.Model, contest: Contest, arguments: argparse.Namespace
) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        paths = {"": Path(folder, "as_it_is.onnx")}
        files.save(contest.window, paths[""])
        for index, name in enumerate(contest.variants):
            paths[name] = Path(folder, f"{index}.onnx")
            files.save(contest.model(name), paths[name])
        found = measure(
            paths,
            contest.inputs(arguments.seed),
            threads=arguments.threads,
            seed=arguments.seed,
            time_limit=arguments.seconds,
        )
    own = validate_runtime(model, threads=arguments.threads).max_relative
    ms = found.timings[0].latency.median
    noise = f"A/A {_interval(found.noise)}"
    yield f"| {layer.name} | as it is, {ms:.2f} ms | {noise} | {own:.0e} |"
    for timing in sorted(found.timings[1:], key=lambda timing: -timing.speedup.median):
        changed = model.clone()
        [choice] = contest.variants[timing.name]
        apply(changed, choice)
        error = validate(model, changed, threads=arguments.threads).max_relative
        yield f"| | {timing.name} | {_interval(timing.speedup)} | {error:.0e} |"
    for name, reason in found.failures.items():
        yield f"| | {name} | fails: {reason} | |"


def _interval(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f} - {ratio.high:.2f})"


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description="Time forms of single layers.")
    parser.add_argument("--only", default="", help="layers whose name contains this")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=6.0, help="for the rounds of one layer")
    arguments = parser.parse_args()
    print("| layer | form | speedup (95 %) | error |\n|---|---|---|---|")
    for layer in layers():
        if arguments.only in layer.name:
            for row in rows(layer, arguments):
                print(row, flush=True)


if __name__ == "__main__":
    main()
