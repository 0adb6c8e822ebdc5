"""Mutants of fold_affine_forward: shifts that meet borders, groups, and constants that widen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.affine import Affine, batchnorm
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.fusions.fold_affine_forward import FoldAffineForward
from advconv_onnx.rewriter.rule import Rule
from tests.parsing import normal
from tests.rewriter.fusions.disproving import mutate
from tests.rewriter.fusions.mutants import (
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

Change = Callable[[Convolution, Affine], tuple[Any, Any]]


def before(element: str, attributes: str = "", conv: str = "Conv", **other: Any) -> ir.Model:
    given = {"w": SQUARE, "c": PER_CHANNEL, **other}
    return site(f"y = {element}(x, c) z = {conv} <{attributes}> (y, w)", **given)


def normalize_before(attributes: str) -> ir.Model:
    nodes = f"y = BatchNormalization(x, s, c, c, v) z = Conv <{attributes}> (y, w)"
    return site(nodes, s=C, c=C[::-1], v=abs(C), w=SQUARE)


def forward(change: Change) -> Rule[Any]:
    """The rule without its refusals, with another new weight and bias."""

    def plan(root: ir.Node) -> tuple[ir.Value, Convolution, Affine]:
        element, convolution = root.graph[0], Convolution.of(root)
        if element.op_type == "BatchNormalization":
            return element.inputs[0], convolution, batchnorm(element)
        values = np.resize(constant_of(element, "c"), convolution.in_channels)
        one, zero = np.ones(len(values)), np.zeros(len(values))
        affine = Affine(values, zero) if element.op_type == "Mul" else Affine(one, values)
        return element.inputs[0], convolution, affine

    def rewrite(self: Any, op: Any, plan: Any) -> ir.Value:
        x, convolution, affine = plan
        return convolution.rebuild(op, x, *change(convolution, affine))

    return mutate(FoldAffineForward, find=whole(plan), rewrite=rewrite)


def right(v: Convolution, a: Affine) -> tuple[Any, Any]:
    return v.scale_input(a.scale), v.bias + v.response_to(a.shift)


def response_to_first_group(v: Convolution, a: Affine) -> tuple[Any, Any]:
    sums = v.weight.reshape(len(v.weight), v.weight.shape[1], -1).sum(-1)
    return v.weight, v.bias + sums @ a.shift[: v.weight.shape[1]]


def scale_of_first_group(v: Convolution, a: Affine) -> tuple[Any, Any]:
    return v.weight * a.scale[: v.weight.shape[1]].reshape(1, -1, 1, 1), v.bias


def sums_of_transposed(v: Convolution, a: Affine) -> tuple[Any, Any]:
    return v.weight, v.bias + a.shift @ v.weight.sum((2, 3))


WRONG: dict[str, tuple[Change, ir.Model]] = {
    "group ignored": (response_to_first_group, before("Add", "group = 2", w=GROUPED)),
    "scale of the first group": (scale_of_first_group, before("Mul", "group = 2", w=GROUPED)),
    "one tap": (lambda v, a: (v.weight, v.bias + v.weight[:, :, 0, 0] @ a.shift), before("Add")),
    "shift at the output": (lambda v, a: (v.weight, v.bias + a.shift), before("Add")),
    "shift forgotten": (lambda v, a: (v.weight, v.bias), before("Add")),
    "outputs scaled": (lambda v, a: (v.scale_output(a.scale), v.bias), before("Mul")),
    "response of the scaled weight": (
        lambda v, a: (v.scale_input(a.scale), v.bias + v.response_to(a.shift * a.scale)),
        normalize_before("strides = [2, 1]"),
    ),
    "shift through a transposed convolution": (
        sums_of_transposed,
        before("Add", conv="ConvTranspose"),
    ),
    "shift through a strided transposed convolution": (
        sums_of_transposed,
        before("Add", "strides = [2, 2]", "ConvTranspose"),
    ),
}
REFUSED = {
    "shift through padding": before("Add", "pads = [0, 1, 0, 0]"),
    "shift through padding at the end": before("Add", "pads = [0, 0, 0, 1]"),
    "shift through auto_pad": before("Add", 'auto_pad = "SAME_UPPER"'),
    "shift of a BatchNormalization through padding": normalize_before("pads = [1, 1, 1, 1]"),
    "constant (W,)": before("Mul", c=C),
    "constant (W,) added before a 1x1": before("Add", c=C, w=normal(4, 4, 1, 1)),
    "constant that widens the input": before("Mul", x="N, 1, H, W"),
    "constant that widens the input to a depthwise convolution": before(
        "Mul", "group = 4", w=normal(4, 1, 3, 3), x="N, 1, H, W"
    ),
}


def cases() -> Iterator[Case]:
    for name, (change, model) in WRONG.items():
        yield name, forward(change), model
    for name, model in REFUSED.items():
        yield name, forward(right), model


@mutants(cases())
def test_a_mutant_is_disproved(mutant: Rule[Any], model: ir.Model, seeds: range) -> None:
    disprove(mutant, model, seeds)


@pytest.mark.parametrize(
    "model", [before("Add", "group = 2", w=GROUPED), normalize_before("strides = [2, 1]")]
)
def test_without_a_mistake_the_same_is_proved(model: ir.Model) -> None:
    assert "integer probe exact on" in certificate(forward(right), model)
