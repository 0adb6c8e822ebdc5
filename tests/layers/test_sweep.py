"""ONNX Runtime and torch held to the references, over all geometries and layers.

Weights and pixels are small integers, so that sums are exact in float32 and results must be equal
to the bit; only interpolation and what follows it may differ by rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings

from tests.layers.building import (
    LAYERS,
    assert_equal,
    build,
    initial_parameters,
    reference,
    run,
    small_integers,
)

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

Arguments = dict[str, Any]
Weights = dict[str, np.ndarray]

_CONV = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}
_CONV_TRANSPOSE = {
    1: torch.nn.ConvTranspose1d,
    2: torch.nn.ConvTranspose2d,
    3: torch.nn.ConvTranspose3d,
}
_LARGEST_KERNEL = {1: 7, 2: 7, 3: 3}
_LARGEST_SIZE = {1: 12, 2: 7, 3: 4}
_SCALES = (1, 2, 3, 4, 0.5, 0.75, 1.25, 1.5, 1.7, 2.3, 2.5)


# Cases: an input shape, and what the layer is called with


@st.composite
def per_axis(draw: st.DrawFn, rank: int, values: st.SearchStrategy[Any]) -> Any:
    """One for all axes, or one each."""
    one = draw(st.booleans())
    return draw(values) if one else tuple(draw(values) for _ in range(rank))


def spread(value: Any, rank: int) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,) * rank


@st.composite
def geometries(draw: st.DrawFn, rank: int, dilated: bool = True) -> Arguments:
    """Kernel, strides, pads or auto_pad, dilations."""
    small = 1 if rank == 3 else 2
    chosen: Arguments = {
        "kernel_shape": draw(per_axis(rank, st.integers(1, _LARGEST_KERNEL[rank]))),
        "strides": draw(per_axis(rank, st.integers(1, 4))),
    }
    if dilated:
        chosen["dilations"] = draw(per_axis(rank, st.integers(1, 1 + small)))
    auto_pad = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto_pad == "NOTSET":
        sides = draw(st.sampled_from([1, rank, 2 * rank]))
        pads = tuple(draw(st.integers(0, small)) for _ in range(sides))
        chosen["pads"] = pads[0] if sides == 1 else pads
    else:
        chosen["auto_pad"] = auto_pad
    return chosen


def both_sides(pads: Any, rank: int) -> list[tuple[int, int]]:
    pads = spread(pads, rank)
    return list(zip(pads[:rank], pads[-rank:], strict=True))


def extents(arguments: Arguments, rank: int) -> list[int]:
    """Of the kernel, gaps included."""
    dilations = arguments.get("dilations", arguments.get("rate", 1))
    kernels = spread(arguments.get("kernel_shape", 1), rank)
    return [(k - 1) * d + 1 for k, d in zip(kernels, spread(dilations, rank), strict=True)]


@st.composite
def sizes(draw: st.DrawFn, rank: int, arguments: Arguments) -> tuple[int, ...]:
    """Sizes into which the kernel fits, the smallest ones among them."""
    pads = both_sides(arguments.get("pads", 0), rank)
    least = [max(1, e - sum(p)) for e, p in zip(extents(arguments, rank), pads, strict=True)]
    if arguments.get("auto_pad", "").startswith("SAME"):
        least = [1] * rank
    return tuple(n + draw(st.integers(0, _LARGEST_SIZE[rank] - 1)) for n in least)


@st.composite
def channels(draw: st.DrawFn) -> tuple[int, int, int]:
    """Of the input and of the output, and the groups they are in."""
    group = draw(st.integers(1, 3))
    return group * draw(st.integers(1, 2)), group * draw(st.integers(1, 2)), group


@st.composite
def cases(draw: st.DrawFn, name: str) -> tuple[tuple[int, ...], Arguments]:
    rank, batch = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    inputs, outputs, group = draw(channels())
    arguments = draw(geometries(rank))
    if name == "pointwise_conv":
        del arguments["kernel_shape"], arguments["dilations"]
    if name == "dilated_conv":
        arguments["rate"] = arguments.pop("dilations")
    if name in ("depthwise_conv", "depthwise_separable_conv"):
        arguments["multiplier"] = group
    elif name != "upsample":
        arguments["group"] = group
    if name not in ("depthwise_conv", "upsample"):
        arguments["channels"] = outputs
    if name in ("upsample", "upsample_conv"):
        return draw(upsamplings(name, rank, (batch, inputs), arguments))
    if name == "conv_transpose":
        return draw(transpositions(rank, (batch, inputs), arguments))
    arguments["bias"] = draw(st.booleans())
    return (batch, inputs, *draw(sizes(rank, arguments))), arguments


@st.composite
def transpositions(
    draw: st.DrawFn, rank: int, prefix: tuple[int, int], arguments: Arguments
) -> tuple[tuple[int, ...], Arguments]:
    strides = spread(arguments["strides"], rank)
    arguments["output_padding"] = tuple(draw(st.integers(0, s - 1)) for s in strides)
    pads = both_sides(arguments.get("pads", 0), rank)
    needs = zip(strides, extents(arguments, rank), pads, strict=True)
    # One pixel at least is left: (n - 1) * stride + extent > pads.
    least = [max(1, math.ceil((1 + sum(p) - e) / s) + 1) for s, e, p in needs]
    size = tuple(n + draw(st.integers(0, _LARGEST_SIZE[rank] // 2 - 1)) for n in least)
    return (*prefix, *size), arguments


@st.composite
def upsamplings(
    draw: st.DrawFn, name: str, rank: int, prefix: tuple[int, int], arguments: Arguments
) -> tuple[tuple[int, ...], Arguments]:
    mode = draw(st.sampled_from(["nearest", "linear"] + ["cubic"] * (rank < 3)))
    chosen: Arguments = {"mode": mode}
    if mode != "nearest":
        chosen["align_corners"] = draw(st.booleans())
    size = tuple(draw(st.integers(2, _LARGEST_SIZE[rank])) for _ in range(rank))
    if draw(st.booleans()):
        scale = draw(per_axis(rank, st.sampled_from(_SCALES)))
        steps = list(zip(size, spread(scale, rank), strict=True))
        assume(all(s == 1 for _, s in steps) or any(int(n * s) != n for n, s in steps))
        chosen["scale"] = scale
    else:
        chosen["size"] = draw(per_axis(rank, st.integers(1, 2 * _LARGEST_SIZE[rank])))
    if name == "upsample":
        return (*prefix, *size), chosen
    arguments["kernel_shape"] = draw(per_axis(rank, st.integers(1, 3)))
    arguments |= {"dilations": 1, "pads": 1}
    arguments.pop("auto_pad", None)
    return (*prefix, *size), arguments | chosen


# What torch makes of a case


def torch_conv(x: torch.Tensor, weights: Weights, arguments: Arguments) -> torch.Tensor:
    """torch.nn.Conv*d; padding="same" where it knows that, else zeros padded around."""
    weight = torch.from_numpy(weights["weight"]).double()
    rank = weight.ndim - 2
    strides = spread(arguments.get("strides", 1), rank)
    auto_pad = arguments.get("auto_pad", "NOTSET")
    same = auto_pad == "SAME_UPPER" and max(strides) == 1
    pairs = both_sides(arguments.get("pads", 0), rank)
    if auto_pad.startswith("SAME"):
        known = {**arguments, "kernel_shape": tuple(weight.shape[2:])}
        pairs = [
            halves(max(0, (math.ceil(n / s) - 1) * s + e - n), auto_pad)
            for n, s, e in zip(x.shape[2:], strides, extents(known, rank), strict=True)
        ]
    if not same:
        x = torch.nn.functional.pad(x, [pad for pair in reversed(pairs) for pad in pair])
    group = x.shape[1] // weight.shape[1]
    layer = _CONV[rank](
        x.shape[1],
        len(weight),
        tuple(weight.shape[2:]),
        strides,
        padding="same" if same else 0,
        dilation=spread(arguments.get("dilations", arguments.get("rate", 1)), rank),
        groups=group,
        bias="bias" in weights,
    )
    return load(layer, weights)(x)


def halves(total: int, auto_pad: str) -> tuple[int, int]:
    small, large = total // 2, total - total // 2
    return (small, large) if auto_pad == "SAME_UPPER" else (large, small)


def load(layer: torch.nn.Module, weights: Weights) -> torch.nn.Module:
    layer.load_state_dict({key: torch.from_numpy(array) for key, array in weights.items()})
    return layer.double()


def torch_conv_transpose(x: torch.Tensor, weights: Weights, arguments: Arguments) -> torch.Tensor:
    """torch.nn.ConvTranspose*d; pads that differ between the sides are cropped off."""
    weight, rank = weights["weight"], x.ndim - 2
    strides = spread(arguments["strides"], rank)
    more = list(arguments["output_padding"])
    pairs = both_sides(arguments.get("pads", 0), rank)
    auto_pad = arguments.get("auto_pad", "NOTSET")
    if auto_pad.startswith("SAME"):
        spans = extents(arguments, rank)
        more = [max(m, s - e) for m, s, e in zip(more, strides, spans, strict=True)]
        sums = [e + m - s for m, s, e in zip(more, strides, spans, strict=True)]
        pairs = [halves(total, auto_pad) for total in sums]
    even = all(begin == end for begin, end in pairs)
    layer = _CONV_TRANSPOSE[rank](
        x.shape[1],
        weight.shape[1] * arguments["group"],
        weight.shape[2:],
        strides,
        padding=[begin for begin, _ in pairs] if even else 0,
        output_padding=more,
        groups=arguments["group"],
        dilation=spread(arguments["dilations"], rank),
    )
    y: torch.Tensor = load(layer, weights)(x)
    if even:
        return y
    kept = [slice(begin, n - end) for (begin, end), n in zip(pairs, y.shape[2:], strict=True)]
    return y[(..., *kept)]


def torch_upsample(x: torch.Tensor, weights: Weights, arguments: Arguments) -> torch.Tensor:
    """torch.nn.Upsample; the cubic one is for images, so a line is made one."""
    rank, mode = x.ndim - 2, arguments["mode"]
    scale, size = arguments.get("scale"), arguments.get("size")
    scale = None if scale is None else tuple(float(factor) for factor in spread(scale, rank))
    size = None if size is None else spread(size, rank)
    lifted = mode == "cubic" and rank == 1
    if lifted:
        x = x.unsqueeze(2)
        scale, size = (value and (1, *value) for value in (scale, size))
    names = {"nearest": ("nearest",) * 3, "linear": ("linear", "bilinear", "trilinear")}
    mode = "bicubic" if mode == "cubic" else names[mode][rank - 1]
    corners = arguments.get("align_corners")
    y: torch.Tensor = torch.nn.Upsample(size, scale, mode=mode, align_corners=corners)(x)
    return y.squeeze(2) if lifted else y


def torch_upsample_conv(x: torch.Tensor, weights: Weights, arguments: Arguments) -> torch.Tensor:
    return torch_conv(torch_upsample(x, weights, arguments), weights, arguments)


def torch_separable(x: torch.Tensor, weights: Weights, arguments: Arguments) -> torch.Tensor:
    depthwise, pointwise = (
        {key.removeprefix(part): array for key, array in weights.items() if key.startswith(part)}
        for part in ("depthwise.", "pointwise.")
    )
    return torch_conv(torch_conv(x, depthwise, arguments), pointwise, {})


TORCH: dict[str, Callable[[torch.Tensor, Weights, Arguments], torch.Tensor]] = {
    "conv": torch_conv,
    "conv_transpose": torch_conv_transpose,
    "depthwise_conv": torch_conv,
    "depthwise_separable_conv": torch_separable,
    "dilated_conv": torch_conv,
    "grouped_conv": torch_conv,
    "pointwise_conv": torch_conv,
    "upsample": torch_upsample,
    "upsample_conv": torch_upsample_conv,
}


# The sweep


def check(name: str, shape: tuple[int, ...], arguments: Arguments, seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = initial_parameters(build(name, shape, arguments))
    weights = {key: small_integers(*array.shape, rng=rng) for key, array in drawn.items()}
    x = small_integers(*shape, rng=rng)
    expected = reference(name, x, weights, arguments)
    tolerance = 0.0 if arguments.get("mode", "nearest") == "nearest" else 1e-5
    assert_equal(run(build(name, shape, arguments, weights=weights), x), expected, tolerance)
    own = {key.removeprefix("layer."): array for key, array in weights.items()}
    with torch.no_grad():
        found = TORCH[name](torch.from_numpy(x).double(), own, arguments).numpy()
    assert_equal(found, expected, tolerance)


def sweep(name: str, examples: int) -> None:
    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(name), st.integers(0, 1 << 30))
    def every(case: tuple[tuple[int, ...], Arguments], seed: int) -> None:
        check(name, *case, seed)

    every()


@pytest.mark.parametrize("name", LAYERS)
def test_onnxruntime_and_torch_equal_the_reference(name: str) -> None:
    sweep(name, 24)


@pytest.mark.long
@pytest.mark.parametrize("name", LAYERS)
def test_onnxruntime_and_torch_equal_the_reference_in_many_cases(name: str) -> None:
    sweep(name, 280)
