"""The kinds of convolution beside each other: what each costs on paper, and what it takes here."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from advconv_onnx import catalog
from advconv_onnx.errors import InputError
from advconv_onnx.layers.window import per_axis
from advconv_onnx.model import format_shape, save
from advconv_onnx.records import Alternative, Comparison, Shape
from advconv_onnx.runtime.engine import resolve_threads
from advconv_onnx.runtime.inputs import largest_sample
from advconv_onnx.runtime.providers import device
from advconv_onnx.runtime.timing import measure

USUAL_SHAPE = (1, 64, 56, 56)

OPTIONS = {
    "channels": (int, None),
    "kernel_shape": (int, 3),
    "group": (int, None),
    "rate": (int, 2),
}
"""Type and default of what ``compare`` can vary."""

_USUAL_GROUPS = 8


def compare(
    shape: Shape,
    *,
    channels: int | None = None,
    kernel_shape: int = 3,
    group: int | None = None,
    rate: int = 2,
    threads: int | None = None,
    seed: int = 0,
    rounds: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Compare dense, separable, grouped and dilated convolutions of one input.

    All keep the size of the image. Each is timed as a model of its own, so that what ONNX Runtime
    does to reorder the input for its kernel, and the result back, counts too.

    Args:
        shape: (N, C_in, *size), all fixed.
        channels: C_out; as many as C_in by default.
        kernel_shape: taps per axis.
        group: groups of the grouped one; by default up to 8, as many as divide the channels.
        rate: of the dilated one; a dense one that covers as much stands beside it.
        threads: intra-op threads; None for one per physical core.
        seed: of weights, inputs and the order of measuring.
        rounds: of measuring; None to stop when the intervals are narrow.
        progress: called with the rounds done and expected.

    Raises:
        InputError: a shape that is not fixed, or a layer that is impossible.
        CheckError: a layer does not run here.
    """
    if len(shape) < 3 or not all(isinstance(dim, int) for dim in shape):
        raise InputError(
            f"cannot compare layers on {format_shape(shape)}; fix batch, channels and sizes, as in "
            f"--input {catalog.INPUT}=1x64x56x56"
        )
    inputs = shape[1]
    assert isinstance(inputs, int)
    outputs = inputs if channels is None else channels
    groups = math.gcd(inputs, outputs, _USUAL_GROUPS) if group is None else group
    [rate] = per_axis("rate", rate, 1)
    rank, extent = len(shape) - 2, (kernel_shape - 1) * rate + 1
    kernel, wide = format_shape((kernel_shape,) * rank), format_shape((extent,) * rank)
    depthwise = {"kernel_shape": kernel_shape, "auto_pad": "SAME_UPPER"}
    dense = {**depthwise, "channels": outputs}
    chosen: dict[str, tuple[str, Mapping[str, Any]]] = {
        f"dense {kernel}": ("conv", dense),
        f"separable {kernel}": ("depthwise_separable_conv", dense),
        f"depthwise {kernel}": ("depthwise_conv", depthwise),
        "pointwise": ("pointwise_conv", {"channels": outputs}),
        f"{groups} groups {kernel}": ("grouped_conv", {**dense, "group": groups}),
        f"rate {rate} {kernel}": ("dilated_conv", {**dense, "rate": rate}),
        f"dense {wide}": ("conv", {**dense, "kernel_shape": extent}),
    }
    if groups == 1:
        del chosen[f"1 groups {kernel}"]
    models = {
        name: catalog.build(layer, input_shape=shape, seed=seed, **options)
        for name, (layer, options) in chosen.items()
    }
    with tempfile.TemporaryDirectory(prefix="advconv-") as folder:
        paths = {name: Path(folder, f"{index}.onnx") for index, name in enumerate(models)}
        for name, path in paths.items():
            save(models[name], path)
        measurement = measure(
            paths,
            largest_sample(next(iter(models.values())), seed=seed, threads=threads).inputs,
            threads=threads,
            seed=seed,
            rounds=rounds,
            progress=progress,
        )
    return Comparison(
        tuple(_alternative(name, shape, *of) for name, of in chosen.items()),
        measurement,
        device("cpu", resolve_threads(threads)),
    )


def _alternative(name: str, shape: Shape, layer: str, options: Mapping[str, Any]) -> Alternative:
    costs = catalog.find(layer).costs
    assert costs is not None
    channels = options.get("channels", shape[1])
    return Alternative(name, layer, costs(shape, **options), (shape[0], channels, *shape[2:]))
