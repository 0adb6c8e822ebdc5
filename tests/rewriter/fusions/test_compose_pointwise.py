"""Mutants of compose_pointwise: products, biases and groups that are wrong, and borders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.fusions.compose_pointwise import ComposePointwise
from advconv_onnx.rewriter.rule import Rule
from tests.parsing import normal
from tests.rewriter.fusions.disproving import mutate
from tests.rewriter.fusions.mutants import (
    BIAS,
    GROUPED,
    SQUARE,
    Case,
    certificate,
    disprove,
    mutants,
    site,
    whole,
)

Change = Callable[[Convolution, Convolution], tuple[Any, Any]]

POINTWISE = normal(4, 4, 1, 1, seed=4)
"""One tap for each pair of channels."""


def both(
    first: str = "", second: str = "", w: Any = SQUARE, u: Any = None, types: Any = ("Conv",) * 2
) -> ir.Model:
    u = normal(2, 4, 1, 1, seed=3) if u is None else u
    channels = [
        len(k) if t == "Conv" else k.shape[1] * (2 if "group" in a else 1)
        for k, t, a in zip((w, u), types, (first, second), strict=True)
    ]
    return site(
        f"y = {types[0]} <{first}> (x, w, b) z = {types[1]} <{second}> (y, u, c)",
        w=w,
        b=BIAS[: channels[0]],
        u=u,
        c=BIAS[::-1][: channels[1]],
    )


def compose(change: Change) -> Rule[Any]:
    """The rule without its refusals, for a 1x1 convolution that comes second."""

    def rewrite(self: Any, op: Any, plan: Any) -> ir.Value:
        return plan[0].rebuild(op, plan[0].x, *change(*plan))

    return mutate(ComposePointwise, find=whole(convolutions), rewrite=rewrite)


def convolutions(root: ir.Node) -> tuple[Convolution, Convolution]:
    return Convolution.of(root.graph[0]), Convolution.of(root)


def matrix(v: Convolution) -> np.ndarray:
    return v.weight.reshape(len(v.weight), -1)


def product(first: Convolution, second: Convolution) -> tuple[Any, Any]:
    weight = np.tensordot(matrix(second), first.weight, axes=1)
    return weight, matrix(second) @ first.bias + second.bias


WRONG: dict[str, tuple[Change, ir.Model]] = {
    "matrix transposed": (
        lambda f, s: (np.tensordot(matrix(s).T, f.weight, 1), matrix(s).T @ f.bias + s.bias),
        both(u=normal(4, 4, 1, 1)),
    ),
    "first bias forgotten": (lambda f, s: (product(f, s)[0], s.bias), both()),
    "first bias not composed": (
        lambda f, s: (product(f, s)[0], f.bias[: len(s.bias)] + s.bias),
        both(),
    ),
    "second bias forgotten": (lambda f, s: (product(f, s)[0], matrix(s) @ f.bias), both()),
    "a group behind": (
        lambda f, s: (np.tensordot(np.tile(matrix(s), 2), f.weight, 1), s.bias),
        both(second="group = 2", u=normal(4, 2, 1, 1)),
    ),
}
REFUSED = {
    "padding between": both(second="pads = [0, 0, 0, 1]"),
    "padding on all sides": both("pads = [1, 1, 1, 1]", "pads = [1, 1, 1, 1]"),
    "a stride behind": both(second="strides = [2, 2]"),
    "a group in front": both("group = 2", w=GROUPED),
}
UNREFUSED = mutate(ComposePointwise, find=whole(convolutions))
EITHER_ORDER = {
    "a bias through padding": both(w=POINTWISE, u=SQUARE, second="pads = [0, 0, 0, 1]"),
    "a bias through auto_pad": both(w=POINTWISE, u=SQUARE, second='auto_pad = "SAME_LOWER"'),
    "a bias through a transposed convolution": both(
        w=POINTWISE, u=SQUARE, types=("Conv", "ConvTranspose")
    ),
    "a stride of the 1x1 in front": both("strides = [2, 1]", w=POINTWISE, u=SQUARE),
    "padding of the 1x1 in front": both("pads = [1, 0, 0, 0]", w=POINTWISE, u=SQUARE),
    "a strided 1x1 behind strides": both("strides = [2, 1]", "strides = [1, 2]"),
    "a padded 1x1 behind": both(second="pads = [0, 1, 0, 0]"),
    "a 1x1 ConvTranspose with strides": both(
        "strides = [2, 2]", w=POINTWISE, u=SQUARE, types=("ConvTranspose", "Conv")
    ),
}
MIXED = both("group = 4", "group = 2", w=normal(4, 1, 2, 3), u=normal(4, 2, 1, 1))
SHARED = both("group = 2", "group = 2", w=GROUPED, u=normal(4, 2, 1, 1))


def blocks_from(change: Callable[[Any], Any]) -> Rule[Any]:
    """The rule with the 1x1's blocks of groups in another order."""

    class Reordered(Convolution):
        def blocks(self, groups: int) -> Any:
            return change(super().blocks(groups))

    def plan(root: ir.Node) -> tuple[Convolution, Convolution]:
        first, second = convolutions(root)
        return first, Reordered(second.node, second.weight, second.bias, second.group)

    return mutate(ComposePointwise, find=whole(plan))


def cases() -> Iterator[Case]:
    for name, (change, model) in WRONG.items():
        yield name, compose(change), model
    for name, model in REFUSED.items():
        yield name, compose(product), model
    for name, model in EITHER_ORDER.items():
        yield name, UNREFUSED, model
    yield "groups swapped", blocks_from(lambda blocks: blocks[::-1]), SHARED
    yield "outputs reversed", blocks_from(lambda blocks: blocks[:, ::-1]), SHARED
    between = blocks_from(lambda blocks: blocks[:, :, ::-1])
    yield "channels between reversed", between, SHARED
    yield "channels between four groups and two reversed", between, MIXED


@mutants(cases())
def test_a_mutant_is_disproved(mutant: Rule[Any], model: ir.Model, seeds: range) -> None:
    disprove(mutant, model, seeds)


@pytest.mark.parametrize(
    ("rule", "model"),
    [
        (compose(product), both("pads = [1, 1, 0, 0], strides = [2, 1]")),
        (blocks_from(lambda blocks: blocks), SHARED),
        (UNREFUSED, MIXED),
        (UNREFUSED, both("group = 2", w=GROUPED)),
        (UNREFUSED, both(w=POINTWISE, u=SQUARE)),
    ],
)
def test_without_a_mistake_the_same_is_proved(rule: Rule[Any], model: ir.Model) -> None:
    assert "integer probe exact on" in certificate(rule, model)
