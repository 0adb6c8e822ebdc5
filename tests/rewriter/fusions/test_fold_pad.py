"""Mutants of fold_pad: pads in the wrong order, and padding that is not with zeros."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.fusions.fold_pad import FoldPad
from advconv_onnx.rewriter.rule import Rule
from tests.rewriter.fusions.disproving import mutate
from tests.rewriter.fusions.mutants import (
    SQUARE,
    Case,
    certificate,
    disprove,
    mutants,
    site,
    whole,
)

Change = Callable[[Any, Any, Any], Any]
"""The new pads from the old ones, the padding (both: beginnings, ends) and the strides."""


def pad_then(
    conv: str = "Conv",
    attributes: str = "",
    p: Any = (0, 0, 1, 2, 0, 0, 3, 0),
    pad: str = "",
    v: float = 0,
    x: str = "N, 4, H, W",
) -> ir.Model:
    nodes = f"y = Pad <{pad}> (x, p, v) z = {conv} <{attributes}> (y, w)"
    return site(nodes, x, 18, w=SQUARE, p=np.array(p, np.int64), v=v)


def fold(change: Change) -> Rule[Any]:
    """The rule without its refusals."""

    def plan(root: ir.Node) -> tuple[ir.Value, Convolution, list[int]]:
        pad, convolution = root.graph[0], Convolution.of(root)
        padding = pad.inputs[1].const_value.numpy().reshape(2, -1)[:, 2:]
        pads = np.array(convolution.pads).reshape(2, -1)
        strides = np.array(root.attributes.get_ints("strides", [1, 1]))
        return pad.inputs[0], convolution, change(pads, padding, strides).ravel().tolist()

    return mutate(FoldPad, find=whole(plan))


def added(q: Any, p: Any, s: Any) -> Any:
    return q + p


def cropped(q: Any, p: Any, s: Any) -> Any:
    return q - p * s


TRANSPOSED = "strides = [2, 3], pads = [2, 6, 6, 0]"
WRONG: dict[str, tuple[Change, ir.Model]] = {
    "ends swapped": (lambda q, p, s: q + p[::-1], pad_then()),
    "axes swapped": (lambda q, p, s: q + p[:, ::-1], pad_then()),
    "interleaved": (lambda q, p, s: (q + p).T, pad_then()),
    "old pads forgotten": (lambda q, p, s: p, pad_then(attributes="pads = [0, 1, 1, 0]")),
    "padding forgotten": (lambda q, p, s: q, pad_then()),
    "padding times stride": (lambda q, p, s: q + p * s, pad_then(attributes="strides = [2, 1]")),
    "stride forgotten in ConvTranspose": (
        lambda q, p, s: q - p,
        pad_then("ConvTranspose", TRANSPOSED),
    ),
    "added in ConvTranspose": (lambda q, p, s: q + p * s, pad_then("ConvTranspose", TRANSPOSED)),
    "strides of ConvTranspose swapped": (
        lambda q, p, s: np.maximum(0, q - p * s[::-1]),
        pad_then("ConvTranspose", TRANSPOSED),
    ),
    "pads of ConvTranspose cut at zero": (
        lambda q, p, s: np.maximum(0, q - p * s),
        pad_then("ConvTranspose", "strides = [2, 2], pads = [1, 1, 1, 1]"),
    ),
    "before a ConvTranspose with a fixed output": (
        cropped,
        pad_then("ConvTranspose", f"{TRANSPOSED}, output_shape = [12, 15]"),
    ),
}
ALL_SIDES = (0, 0, 1, 1, 0, 0, 1, 1)
REFUSED = {
    "a value of one": pad_then(v=1),
    "a value of nearly zero": pad_then(v=1e-3),
    "reflected": pad_then(p=ALL_SIDES, pad='mode = "reflect"'),
    "edge": pad_then(pad='mode = "edge"'),
    "wrapped": pad_then(p=ALL_SIDES, pad='mode = "wrap"'),
    "padded batch": pad_then(p=(1, 0, 1, 2, 0, 0, 3, 0)),
    "padded channels": pad_then(p=(0, 1, 1, 2, 0, 0, 3, 0), x="N, 3, H, W"),
    "before SAME_UPPER": pad_then(attributes='auto_pad = "SAME_UPPER"'),
    "before SAME_LOWER with strides": pad_then(
        attributes='auto_pad = "SAME_LOWER", strides = [2, 2]'
    ),
    "a crop and pads": pad_then(attributes="pads = [1, 1, 1, 1]", p=(0, 0, -1, 0, 0, 0, 0, 0)),
}


def cases() -> Iterator[Case]:
    for name, (change, model) in WRONG.items():
        yield name, fold(change), model
    for name, model in REFUSED.items():
        yield name, fold(added), model


@mutants(cases())
def test_a_mutant_is_disproved(mutant: Rule[Any], model: ir.Model, seeds: range) -> None:
    disprove(mutant, model, seeds)


@pytest.mark.parametrize(
    ("change", "model"),
    [
        (added, pad_then(attributes="pads = [0, 1, 1, 0], strides = [2, 1]")),
        (cropped, pad_then("ConvTranspose", TRANSPOSED)),
    ],
)
def test_without_a_mistake_the_same_is_proved(change: Change, model: ir.Model) -> None:
    assert "integer probe exact on" in certificate(fold(change), model)
