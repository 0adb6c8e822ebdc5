"""The convolutional layers of torch.nn, and the ONNX operators that each must come out as.

``test_torch_layers.py`` holds every row to its word, and docs/torch_layers.md is made of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

DOCUMENT = Path(__file__).parents[2] / "docs" / "torch_layers.md"

Dims = tuple[int | str, ...]

CHANNELS = 4
LINES: Dims = ("N", CHANNELS, "L")
IMAGES: Dims = ("N", CHANNELS, "H", "W")
VOLUMES: Dims = ("N", CHANNELS, "D", "H", "W")
OF_RANK = {1: LINES, 2: IMAGES, 3: VOLUMES}


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer and what becomes of it.

    Attributes:
        torch: how it is written.
        make: makes one, with random weights.
        shape: of its input, with names for what is dynamic.
        onnx: the operators, in order.
        why: why they are more than one.
    """

    torch: str
    make: Callable[[], nn.Module]
    shape: Dims
    onnx: str
    why: str = ""


@dataclasses.dataclass(frozen=True)
class Impossible:
    """A layer that cannot be exported.

    Attributes:
        message: a part of the error.
        why: what is missing.
    """

    torch: str
    make: Callable[[], nn.Module]
    shape: Dims
    message: str
    why: str


class Call(nn.Module):
    """A function of torch.nn.functional as a layer."""

    def __init__(self, function: Callable[..., torch.Tensor], **options: Any) -> None:
        super().__init__()
        self.function, self.options = function, options

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.function(input, **self.options)


def initialized(layer: nn.Module, rank: int) -> nn.Module:
    """A lazy layer that has seen its first input."""
    layer(torch.zeros(1, CHANNELS, *[8] * rank))
    return layer


def convolutions(rank: int) -> Iterator[Layer]:
    shape = OF_RANK[rank]
    conv, transposed = getattr(nn, f"Conv{rank}d"), getattr(nn, f"ConvTranspose{rank}d")
    lazy = getattr(nn, f"LazyConv{rank}d"), getattr(nn, f"LazyConvTranspose{rank}d")
    name = f"Conv{rank}d"

    def row(text: str, onnx: str, why: str = "", kind: Any = conv, **options: Any) -> Layer:
        return Layer(text, lambda: kind(CHANNELS, 8, **options), shape, onnx, why)

    yield row(f"{name}(stride=2, padding=1)", "Conv", kernel_size=3, stride=2, padding=1)
    yield row(
        f"{name}(dilation=2, groups=4, bias=False)", "Conv",
        kernel_size=3, padding=2, dilation=2, groups=4, bias=False,
    )  # fmt: skip
    yield row(f'{name}(padding="same")', "Conv", kernel_size=4, padding="same")
    for mode in ("reflect", "replicate", "circular"):
        yield row(
            f'{name}(padding_mode="{mode}")', "Pad Conv", PADS_ZEROS,
            kernel_size=3, padding=1, padding_mode=mode,
        )  # fmt: skip
    yield row(
        f"ConvTranspose{rank}d(stride=2, output_padding=1, groups=2)", "ConvTranspose",
        kind=transposed, kernel_size=3, stride=2, padding=1, output_padding=1, groups=2,
    )  # fmt: skip
    yield Layer(f"Lazy{name}", lambda: initialized(lazy[0](8, 3), rank), shape, "Conv")
    yield Layer(
        f"LazyConvTranspose{rank}d(stride=2)",
        lambda: initialized(lazy[1](8, 3, stride=2), rank), shape, "ConvTranspose",
    )  # fmt: skip
    norm = getattr(nn, f"BatchNorm{rank}d")
    yield Layer(
        f"{name}, BatchNorm{rank}d", lambda: nn.Sequential(conv(CHANNELS, 8, 3), trained(norm(8))),
        shape, "Conv",
    )  # fmt: skip
    instance = getattr(nn, f"InstanceNorm{rank}d")
    yield Layer(
        f"InstanceNorm{rank}d(affine=True)", lambda: instance(CHANNELS, affine=True), shape,
        "InstanceNormalization",
    )  # fmt: skip


def trained(norm: nn.Module) -> nn.Module:
    """A BatchNormalization with statistics as after a training."""
    norm.running_mean = torch.randn_like(norm.running_mean)  # type: ignore[arg-type]
    norm.running_var = torch.rand_like(norm.running_var) + 0.5  # type: ignore[arg-type]
    return norm


PADS_ZEROS = "a Conv pads with zeros only"
GROUPS = "GroupNormalization is there from opset 21 on: --opset 21 makes it one"
AS_IMAGES = "torch computes it as of images of height 1"
REORDERS = "ONNX orders the channels of SpaceToDepth otherwise; a Conv behind takes in the Gather"


def reparametrized() -> Iterator[Layer]:
    def row(text: str, make: Callable[[], nn.Module], onnx: str = "Conv") -> Layer:
        return Layer(text, make, IMAGES, onnx)

    def conv() -> nn.Module:
        return nn.Conv2d(CHANNELS, 8, 3)

    yield row("weight_norm(Conv2d)", lambda: parametrizations.weight_norm(conv()))
    yield row("spectral_norm(Conv2d)", lambda: parametrizations.spectral_norm(conv()))
    yield row("orthogonal(Conv2d)", lambda: parametrizations.orthogonal(conv()))
    yield row(
        "weight_norm(ConvTranspose2d)",
        lambda: parametrizations.weight_norm(nn.ConvTranspose2d(CHANNELS, 8, 3, stride=2), dim=1),
        "ConvTranspose",
    )
    yield row("Conv2d in channels_last", lambda: conv().to(memory_format=torch.channels_last))
    yield Layer(
        "GroupNorm(2)", lambda: nn.GroupNorm(2, CHANNELS), IMAGES,
        "Reshape InstanceNormalization Shape Reshape", GROUPS,
    )  # fmt: skip


def rearranging() -> Iterator[Layer]:
    yield Layer("PixelShuffle(2)", lambda: nn.PixelShuffle(2), IMAGES, "DepthToSpace")
    colours: Dims = ("N", 3, "H", "W")
    yield Layer(
        "PixelUnshuffle(2)", lambda: nn.PixelUnshuffle(2), colours, "SpaceToDepth Gather", REORDERS
    )
    yield Layer("ChannelShuffle(2)", lambda: nn.ChannelShuffle(2), IMAGES, "Gather")
    yield Layer(
        "Unfold(3)", lambda: nn.Unfold(3, dilation=2, padding=1, stride=2), IMAGES,
        "Conv Reshape", "ONNX has no im2col: the Conv picks out the places of a window",
    )  # fmt: skip
    yield Layer("Fold((8, 10), 3)", lambda: nn.Fold((8, 10), 3, padding=1), ("N", 18, 80), "Col2Im")


def resizing(rank: int) -> Iterator[Layer]:
    linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[rank]
    modes = ("nearest", "nearest-exact", linear, *(("bicubic",) if rank == 2 else ()))
    for mode in modes:
        corners = (None,) if mode.startswith("nearest") else (False, True)
        for align in corners:
            said = "" if align is None else f", align_corners={align}"
            for what, options in (
                ("scale_factor=2", {"scale_factor": 2}),
                ("scale_factor=1.5", {"scale_factor": 1.5}),
                ("size=9", {"size": (9,) * rank}),
            ):
                yield Layer(
                    f'Upsample({what}, mode="{mode}"{said})',
                    lambda o=options, m=mode, a=align: nn.Upsample(**o, mode=m, align_corners=a),
                    OF_RANK[rank], "Resize",
                )  # fmt: skip


def interpolating() -> Iterator[Layer]:
    def row(onnx: str = "Resize", why: str = "", **options: Any) -> Layer:
        return Layer(
            said(options), lambda: Call(functional.interpolate, **options), IMAGES, onnx, why
        )

    yield row(scale_factor=0.5, mode="bilinear")
    yield row(size=1, mode="bilinear")
    for mode in ("bilinear", "bicubic"):
        yield row(scale_factor=0.4, mode=mode, antialias=True)
        yield row(size=(9, 11), mode=mode, antialias=True)
    yield row(
        "Shape Squeeze Shape Squeeze Cast Mul Cast Cast Mul Cast Reshape Reshape Concat Resize",
        "the factor is computed again from the size it leads to; a fixed size is one Resize",
        scale_factor=1.7, mode="bilinear", recompute_scale_factor=True,
    )  # fmt: skip
    for kind in (nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d):
        yield Layer(
            f"{kind.__name__}(scale_factor=2)", lambda k=kind: k(scale_factor=2), IMAGES, "Resize"
        )


def said(options: dict[str, Any]) -> str:
    return f"interpolate({', '.join(f'{name}={value!r}' for name, value in options.items())})"


def fixed() -> Iterator[Layer]:
    """What has a form for fixed sizes only, or another one."""
    size: Dims = ("N", CHANNELS, 12, 15)
    for options in ({"scale_factor": 0.5, "mode": "area"}, {"size": (6, 5), "mode": "area"}):
        even: Dims = ("N", CHANNELS, 12, 10)
        yield Layer(
            said(options), lambda o=options: Call(functional.interpolate, **o), even, "AveragePool"
        )
    yield Layer("MaxPool1d(3)", lambda: nn.MaxPool1d(3), ("N", CHANNELS, 20), "MaxPool")
    yield Layer("AdaptiveAvgPool2d(3)", lambda: nn.AdaptiveAvgPool2d(3), size, "AveragePool")
    yield Layer("AdaptiveMaxPool2d(3)", lambda: nn.AdaptiveMaxPool2d(3), size, "MaxPool")
    yield Layer(
        "GroupNorm(2)", lambda: nn.GroupNorm(2, CHANNELS), size,
        "Reshape InstanceNormalization Reshape", GROUPS,
    )  # fmt: skip


def impossible() -> Iterator[Impossible]:
    def area(**options: Any) -> Callable[[], nn.Module]:
        return lambda: Call(functional.interpolate, **options)

    yield Impossible(
        "interpolate(scale_factor=0.5, mode='area')", area(scale_factor=0.5, mode="area"), IMAGES,
        "differs from torch", "odd sizes have windows of several sizes; fix the size",
    )  # fmt: skip
    yield Impossible(
        "AdaptiveAvgPool2d(3)", lambda: nn.AdaptiveAvgPool2d(3), IMAGES,
        "exported, but not for all sizes", "its windows depend on the size; fix the size",
    )  # fmt: skip
    yield Impossible(
        "AdaptiveMaxPool2d(3)", lambda: nn.AdaptiveMaxPool2d(3), IMAGES,
        "torch cannot export aten.adaptive_max_pool2d",
        "its windows depend on the size; fix the size",
    )  # fmt: skip
    yield Impossible(
        "MaxPool1d(3)", lambda: nn.MaxPool1d(3), LINES, "static shape of 64 .* fix the dimensions",
        "torch.export fixes its length; MaxPool2d with a kernel of height 1 stays dynamic",
    )  # fmt: skip
    yield Impossible(
        "FractionalMaxPool2d", lambda: nn.FractionalMaxPool2d(2, output_size=3), IMAGES,
        "torch cannot export aten.fractional_max_pool2d", "its windows are drawn by chance",
    )  # fmt: skip
    yield Impossible(
        "interpolate(mode='bilinear', antialias=True, align_corners=True)",
        area(scale_factor=0.5, mode="bilinear", antialias=True, align_corners=True), IMAGES,
        "differs from torch", "ONNX Runtime weighs the pixels otherwise than torch",
    )  # fmt: skip
    yield Impossible(
        "Unfold of (C, H, W)", lambda: nn.Unfold(3), (CHANNELS, 12, 14),
        "needs a batch of images", "give it a batch",
    )  # fmt: skip


def padding_and_pooling(rank: int) -> Iterator[Layer]:
    shape = OF_RANK[rank]
    for kind in ("Zero", "Constant", "Reflection", "Replication", "Circular"):
        make = getattr(nn, f"{kind}Pad{rank}d")
        extra = (0.5,) if kind == "Constant" else ()
        yield Layer(f"{kind}Pad{rank}d", lambda m=make, e=extra: m(1, *e), shape, "Pad")
    # MaxPool1d is among the impossible ones.
    pools = {"AvgPool": "AveragePool", **({"MaxPool": "MaxPool"} if rank > 1 else {})}
    for kind, onnx in pools.items():
        make = getattr(nn, f"{kind}{rank}d")
        yield Layer(
            f"{kind}{rank}d(3, stride=2, padding=1)", lambda m=make: m(3, 2, 1), shape, onnx
        )
    make = getattr(nn, f"AdaptiveAvgPool{rank}d")
    mean, why = ("Unsqueeze ReduceMean Squeeze", AS_IMAGES) if rank == 1 else ("ReduceMean", "")
    yield Layer(f"AdaptiveAvgPool{rank}d(1)", lambda: make(1), shape, mean, why)


GROUPS_OF_LAYERS: dict[str, Callable[[], Iterator[Layer]]] = {
    "convolutions of rank 1": lambda: convolutions(1),
    "convolutions of rank 2": lambda: convolutions(2),
    "convolutions of rank 3": lambda: convolutions(3),
    "parametrized weights, norms": reparametrized,
    "rearranged pixels": rearranging,
    "resizing of rank 1": lambda: resizing(1),
    "resizing of rank 2": lambda: resizing(2),
    "resizing of rank 3": lambda: resizing(3),
    "interpolate": interpolating,
    "padding and pooling of rank 1": lambda: padding_and_pooling(1),
    "padding and pooling of rank 2": lambda: padding_and_pooling(2),
    "padding and pooling of rank 3": lambda: padding_and_pooling(3),
    "fixed sizes": fixed,
}

HEAD = """# Layers of torch as ONNX

What `advconv export` makes of the convolutional layers of torch.nn, in evaluation mode, for opset
20 and, unless said otherwise, dynamic batches and sizes. Each row is exported, compared with torch
on several sizes and held to exactly these operators by `tests/exporters/test_torch_layers.py`; the
page is written by `python -m tests.exporters.torch_layers`.
"""


def document() -> str:
    """The table as Markdown."""
    lines = [HEAD]
    for group, layers in GROUPS_OF_LAYERS.items():
        lines += [f"## {group.capitalize()}", "", "| torch | ONNX | why not one |", "|---|---|---|"]
        lines += [
            f"| `{row.torch}` | {row.onnx.replace(' ', ', ')} | {row.why} |" for row in layers()
        ]
        lines.append("")
    lines += ["## What cannot be", "", "| torch | why |", "|---|---|"]
    lines += [f"| `{row.torch}` | {row.why} |" for row in impossible()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
