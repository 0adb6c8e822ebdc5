"""Mutants of spell_affine: chains read in the wrong order or not to their end, and widening."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.affine import Affine
from advconv_onnx.rewriter.fusions.spell_affine import SpellAffine
from advconv_onnx.rewriter.rule import Rule
from tests.rewriter.fusions.disproving import mutate
from tests.rewriter.fusions.mutants import (
    PER_CHANNEL,
    C,
    Case,
    S,
    certificate,
    constant_of,
    disprove,
    mutants,
    site,
    whole,
)

_REAL = SpellAffine()

Change = Callable[[Affine], Affine]


def chain(
    nodes: str = "y = Mul(x, a) z = Add(y, c)", x: str = "N, 4, H, W", c: Any = PER_CHANNEL
) -> ir.Model:
    return site(nodes, x, a=S.reshape(4, 1, 1), c=c)


def spell(change: Change) -> Rule[Any]:
    """The rule with another scale and shift for the whole chain."""
    return mutate(
        SpellAffine,
        rewrite=lambda self, op, plan: _REAL.rewrite(op, (plan[0], change(plan[1]))),
    )


def as_channels(root: ir.Node) -> tuple[ir.Value, Affine]:
    """Take any constants with the right number of values for one value per channel."""
    scale, shift = constant_of(root.graph[0], "a"), constant_of(root, "c")
    return root.graph.inputs[0], Affine(scale, np.resize(shift, len(scale)))


CARELESS = mutate(SpellAffine, find=whole(as_channels))
SHIFT_FIRST = chain("y = Add(x, c) z = Mul(y, a)")
WRONG: dict[str, Change] = {
    "shift scaled": lambda a: Affine(a.scale, a.shift * a.scale),
    "shift of the wrong sign": lambda a: Affine(a.scale, -a.shift),
    "scale forgotten": lambda a: Affine(np.ones(4), a.shift),
    "shift forgotten": lambda a: Affine(a.scale, np.zeros(4)),
    "channels reversed": lambda a: Affine(a.scale[::-1], a.shift),
    "absolute scale": lambda a: Affine(abs(a.scale), a.shift),
}


def epsilon_added(self: Any, op: Any, plan: Any) -> ir.Value:
    """A variance of one, to which the operator adds epsilon."""
    built: ir.Value = _REAL.rewrite(op, plan)
    node = built.producer()
    assert node is not None
    node.replace_input_with(4, op.initializer(np.ones(4, np.float32), "variance"))
    node.attributes.add(ir.AttrFloat32("epsilon", 1e-3))
    return built


def out_of_order(root: ir.Node) -> tuple[ir.Value, Affine]:
    """Read a shift before a scale as one behind it."""
    scale, shift = constant_of(root, "a"), constant_of(root.graph[0], "c")
    return root.graph.inputs[0], Affine(scale, shift)


def cases() -> Iterator[Case]:
    for name, change in WRONG.items():
        yield name, spell(change), chain()
    yield "shift not scaled", spell(lambda a: Affine(a.scale, a.shift / a.scale)), SHIFT_FIRST
    order = mutate(SpellAffine, find=whole(out_of_order))
    yield "order ignored", order, SHIFT_FIRST
    yield "epsilon on top of a variance of one", mutate(SpellAffine, rewrite=epsilon_added), chain()
    yield "constant (W,)", CARELESS, chain(c=C)
    yield "constant that widens", CARELESS, chain(x="N, 1, H, W")


@mutants(cases())
def test_a_mutant_is_disproved(mutant: Rule[Any], model: ir.Model, seeds: range) -> None:
    disprove(mutant, model, seeds)


@pytest.mark.parametrize(
    ("rule", "model"), [(CARELESS, chain()), (spell(lambda a: a), SHIFT_FIRST)]
)
def test_without_a_mistake_the_same_is_proved(rule: Rule[Any], model: ir.Model) -> None:
    assert "integer probe exact on" in certificate(rule, model)
