"""Mutants of fold_affine: weights, biases, attributes, types and constants that are wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.optimizer.prove import Disproved
from advconv_onnx.rewriter.affine import Affine
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.fusions.fold_affine import FoldAffine
from advconv_onnx.rewriter.rule import Rule, Site
from tests.parsing import normal
from tests.rewriter.fusions.disproving import mutate
from tests.rewriter.fusions.mutants import (
    BIAS,
    GROUPED,
    PER_CHANNEL,
    SQUARE,
    C,
    Case,
    certificate,
    constant_of,
    disprove,
    mutants,
    site,
    whole,
)

_REAL = FoldAffine()

Change = Callable[[Convolution, Affine], tuple[Any, Any]]


def fold(change: Change) -> Rule[Any]:
    """The rule with another new weight and bias."""

    def rewrite(self: Any, op: Any, plan: Any) -> ir.Value:
        return plan[0].rebuild(op, plan[0].x, *change(*plan))

    return mutate(FoldAffine, rewrite=rewrite)


def read(change: Callable[[Affine], Affine]) -> Rule[Any]:
    """The rule with another idea of what is folded."""

    def find(self: Any, root: ir.Node, opset: int) -> Site[Any]:
        found = _REAL.find(root, opset)
        return Site(found.nodes, (found.plan[0], change(found.plan[1])))

    return mutate(FoldAffine, find=find)


def build(dtype: Any, drop: str = "", **extra: Any) -> Rule[Any]:
    """The right weights as ``dtype``, less one attribute or with further ones."""

    def rewrite(self: Any, op: Any, plan: Any) -> ir.Value:
        v, a = plan
        arrays = (v.scale_output(a.scale), v.bias * a.scale + a.shift)
        values = [op.initializer(array.astype(dtype), "w") for array in arrays]
        kept = {name: a for name, a in v.node.attributes.items() if name != drop}
        return op.node(v.node.op_type, [v.x, *values], {**kept, **extra}).outputs[0]

    return mutate(FoldAffine, rewrite=rewrite)


def as_channels(root: ir.Node) -> tuple[Convolution, Affine]:
    """Take any constant with the right number of values for one value per channel."""
    convolution = Convolution.of(root.graph[0])
    values = np.resize(constant_of(root, "c"), convolution.out_channels)
    one, zero = np.ones(len(values)), np.zeros(len(values))
    return convolution, Affine(values, zero) if root.op_type == "Mul" else Affine(one, values)


CARELESS = mutate(FoldAffine, find=whole(as_channels))


def then(
    element: str, attributes: str = "", conv: str = "Conv", b: Any = BIAS, **other: Any
) -> ir.Model:
    given = {"w": SQUARE if conv == "Conv" else GROUPED, "c": PER_CHANNEL, **other}
    return site(f"y = {conv} <{attributes}> (x, w, b) z = {element}(y, c)", b=b, **given)


def transposed(element: str, attributes: str) -> ir.Model:
    return then(element, f"group = 2, {attributes}", "ConvTranspose")


def first_group_for_all(v: Convolution, a: Affine) -> tuple[Any, Any]:
    scale = a.scale[: len(a.scale) // v.group].reshape(1, -1, *[1] * (v.rank - 2))
    return v.weight * scale, v.bias * a.scale + a.shift


SHIFTS: dict[str, Change] = {
    "shift of the wrong sign": lambda v, a: (v.weight, v.bias - a.shift),
    "shift forgotten": lambda v, a: (v.weight, v.bias),
    "old bias forgotten": lambda v, a: (v.weight, a.shift),
    "shift of the first channel": lambda v, a: (v.weight, v.bias + a.shift[0]),
    "channels reversed": lambda v, a: (v.weight, v.bias + a.shift[::-1]),
    "shift added to weights": lambda v, a: (v.weight + a.shift[0], v.bias),
    "small bias dropped": lambda v, a: (
        v.weight,
        np.where(abs(v.bias + a.shift) < 10, 0, v.bias + a.shift),
    ),
}
SCALES: dict[str, Change] = {
    "scale forgotten": lambda v, a: (v.weight, v.bias * a.scale),
    "bias not scaled": lambda v, a: (v.scale_output(a.scale), v.bias),
    "bias scaled twice": lambda v, a: (v.scale_output(a.scale), v.bias * a.scale**2),
    "inputs scaled": lambda v, a: (v.scale_input(a.scale), v.bias * a.scale),
    "scale reversed": lambda v, a: (v.scale_output(a.scale[::-1]), v.bias * a.scale),
    "scale squared": lambda v, a: (v.scale_output(a.scale**2), v.bias * a.scale),
    "absolute scale": lambda v, a: (v.scale_output(abs(a.scale)), v.bias * a.scale),
    "negative scales cut": lambda v, a: (
        v.scale_output(np.maximum(a.scale, 0)),
        v.bias * a.scale,
    ),
    "kernel flipped": lambda v, a: (v.scale_output(a.scale)[..., ::-1], v.bias * a.scale),
    "weights rounded to float16": lambda v, a: (
        v.scale_output(a.scale).astype(np.float16),
        v.bias * a.scale,
    ),
    # Integers do not show it, the real weights do.
    "weights rounded to multiples of 1/256": lambda v, a: (
        np.round(256 * v.scale_output(a.scale)) / 256,
        v.bias * a.scale,
    ),
}
ATTRIBUTES = {
    "strides": then("Add", "strides = [2, 1]"),
    "dilations": then("Add", "dilations = [1, 2]"),
    "pads": then("Add", "pads = [0, 0, 0, 1]"),
    "auto_pad": then("Add", 'auto_pad = "SAME_LOWER"'),
    "group": transposed("Add", "strides = [1, 1]"),
    "output_padding": transposed("Add", "strides = [2, 2], output_padding = [1, 0]"),
    "output_shape": transposed("Add", "strides = [2, 2], output_shape = [9, 9]"),
}
CONSTANTS = {
    # W == C: four values along the width or the height, of an image that may be four pixels wide.
    "(W,)": then("Add", c=C),
    "(H, 1)": then("Mul", c=C.reshape(4, 1)),
    "(W,) where the width is the only 4": then("Add", c=C, x="1, 4, 9, 6"),
    "(W,) behind a 1x1 convolution": then("Mul", c=C, w=normal(4, 4, 1, 1)),
    "(N, 1, 1, 1)": then("Add", c=C.reshape(4, 1, 1, 1), x="4, 4, H, W"),
    "(N, 1, 1, 1) of two": then("Add", c=C[:2].reshape(2, 1, 1, 1)),
    "(1, 1, C, 1, 1)": then("Add", c=C.reshape(1, 1, 4, 1, 1)),
    "that widens the channels": then("Add", w=SQUARE[:1], b=BIAS[:1]),
    "(1, W) in one dimension": site(
        "y = Conv(x, w) z = Add(y, c)", "N, 4, L", w=normal(4, 4, 1), c=C.reshape(1, 4)
    ),
}


def cases() -> Iterator[Case]:
    multiplied = then("Mul", "pads = [1, 1, 1, 1]")
    for name, change in SHIFTS.items():
        yield name, fold(change), then("Add")
    for name, change in SCALES.items():
        yield name, fold(change), multiplied
    by_group = transposed("Mul", "strides = [2, 1]")
    yield "group ignored in ConvTranspose", fold(first_group_for_all), by_group
    yield "inputs of ConvTranspose scaled", fold(SCALES["inputs scaled"]), by_group
    for name, model in ATTRIBUTES.items():
        yield f"{name} dropped", build(np.float32, name), model
    for name, model in CONSTANTS.items():
        yield f"constant {name} per channel", CARELESS, model
    yield "weights of another type", build(np.float64), multiplied
    yield "weights of a narrower type", build(np.float16), multiplied
    yield "an attribute that Conv lacks", build(np.float32, alpha=1.0), multiplied
    wider = fold(lambda v, a: (v.weight, v.bias + C))
    wider = mutate(type(wider), find=whole(lambda root: (Convolution.of(root.graph[0]), None)))
    yield "bias wider than the weight", wider, CONSTANTS["that widens the channels"]
    subtracted = site("y = Conv(x, w) z = Sub(c, y)", w=SQUARE, c=PER_CHANNEL)
    yield "c - y as y - c", read(lambda a: Affine(-a.scale, -a.shift)), subtracted
    yield "division as product", read(lambda a: Affine(1 / a.scale, a.shift)), then("Div")


@mutants(cases())
def test_a_mutant_is_disproved(mutant: Rule[Any], model: ir.Model, seeds: range) -> None:
    disprove(mutant, model, seeds)


@pytest.mark.parametrize(
    ("rule", "model"),
    [
        (fold(lambda v, a: (v.scale_output(a.scale), v.bias * a.scale + a.shift)), then("Mul")),
        (CARELESS, then("Add", "strides = [2, 1]")),
        (build(np.float32, "nothing"), transposed("Mul", "output_shape = [9, 9]")),
    ],
)
def test_without_a_mistake_the_same_is_proved(rule: Rule[Any], model: ir.Model) -> None:
    assert "integer probe exact on" in certificate(rule, model)


def test_a_site_that_does_not_run_proves_nothing() -> None:
    """The constant fits one width, which the probe, free to choose, does not choose."""
    model = site(
        "y = Conv <pads = [0, 2, 0, 2]> (x, w) z = Mul(y, c)",
        "1, 4, 7, 18",
        w=SQUARE,
        c=np.ones((1, 20)),
    )
    with pytest.raises(Disproved, match="on none of the shapes tried"):
        certificate(CARELESS, model)
