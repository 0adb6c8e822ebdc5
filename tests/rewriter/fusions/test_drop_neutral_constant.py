"""Mutants of drop_neutral_constant: constants that are nearly neutral, or widen their operand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.fusions.drop_neutral_constant import DropNeutralConstant
from advconv_onnx.rewriter.rule import Rule
from tests.rewriter.fusions.disproving import mutate
from tests.rewriter.fusions.mutants import Case, certificate, disprove, mutants, site, whole

DROP = mutate(DropNeutralConstant, find=whole(lambda root: root.graph.inputs[0]))
ZEROS, IMAGE = np.zeros(4, np.float32), "N, 4, H, W"


def neutral(constant: Any, x: str = IMAGE, node: str = "z = Add(x, c)") -> ir.Model:
    return site(node, x, c=constant)


SITES = {
    "0.001": neutral(0.001),
    "a factor of 1.001": neutral(1.001, node="z = Mul(x, c)"),
    "0 that x is subtracted from": neutral(0, node="z = Sub(c, x)"),
    "1 that is divided by x": neutral(1, node="z = Div(c, x)"),
    "one channel that is not zero": neutral(np.array([0, 0, 0, 1e-3]), "N, 8, 4"),
    "zeros that widen the channels": neutral(ZEROS.reshape(4, 1, 1), "N, 1, H, W"),
    "zeros that widen the batch": neutral(ZEROS.reshape(4, 1, 1, 1)),
    "zeros that add an axis": neutral(ZEROS.reshape(1, 1, 1, 1, 4), "N, 2, H, 4"),
    "zeros that widen some sizes": neutral(ZEROS, "N, 2, H, W"),
    "zeros that widen some other sizes": neutral(ZEROS.reshape(4, 1), "N, 2, H, W"),
    "zeros that widen sequences of one": neutral(ZEROS, "N, S"),
}


def cases() -> Iterator[Case]:
    for name, model in SITES.items():
        yield name, DROP, model


@mutants(cases())
def test_a_mutant_is_disproved(mutant: Rule[Any], model: ir.Model, seeds: range) -> None:
    disprove(mutant, model, seeds)


def test_without_a_mistake_the_same_is_proved() -> None:
    assert "difference 0e+00 on 4 shapes" in certificate(DROP, neutral(ZEROS.reshape(4, 1, 1)))
