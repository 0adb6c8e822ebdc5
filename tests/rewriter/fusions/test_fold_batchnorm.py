"""Mutants of fold_batchnorm: formulas that are nearly right, and training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.affine import Affine
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.fusions.fold_batchnorm import FoldBatchnorm
from advconv_onnx.rewriter.rule import Rule
from tests.rewriter.fusions.disproving import mutate
from tests.rewriter.fusions.mutants import (
    BIAS,
    GROUPED,
    SQUARE,
    Case,
    certificate,
    constant_of,
    disprove,
    mutants,
    site,
    whole,
)
from tests.rewriter.fusions.test_fold_affine import first_group_for_all


def normalize(
    attributes: str = "", conv: str = "Conv", outputs: str = "z", opset: int = 15
) -> ir.Model:
    rng = np.random.default_rng(5)
    statistics = {name: rng.normal(size=4) for name in "scm"}
    statistics["v"] = rng.uniform(0.5, 2, 4)
    group = "" if conv == "Conv" else "<group = 2>"
    return site(
        f"y = {conv} {group} (x, w, b) "
        f"{outputs} = BatchNormalization <{attributes}> (y, s, c, m, v)",
        w=SQUARE if conv == "Conv" else GROUPED,
        b=BIAS,
        opset=opset,
        **{name: array.astype(np.float32) for name, array in statistics.items()},
    )


def by(formula: Callable[..., tuple[Any, Any]]) -> Rule[Any]:
    """The rule with a formula for scale and shift from s, c, m, v and epsilon."""

    def plan(root: ir.Node) -> tuple[Convolution, Affine]:
        epsilon = root.attributes.get_float("epsilon", 1e-5)
        found = formula(*(constant_of(root, name) for name in "scmv"), epsilon)
        return Convolution.of(root.graph[0]), Affine(*found)

    return mutate(FoldBatchnorm, find=whole(plan))


def ratio(s: Any, v: Any, e: float) -> Any:
    return s / np.sqrt(v + e)


def right(s: Any, c: Any, m: Any, v: Any, e: float) -> tuple[Any, Any]:
    return ratio(s, v, e), c - m * ratio(s, v, e)


FORMULAS: dict[str, Callable[..., tuple[Any, Any]]] = {
    "epsilon forgotten": lambda s, c, m, v, e: right(s, c, m, v, 0),
    "epsilon outside the root": lambda s, c, m, v, e: right(s, c, m, (np.sqrt(v) + e) ** 2, 0),
    "no root": lambda s, c, m, v, e: right(s, c, m, (v + e) ** 2, 0),
    "mean added": lambda s, c, m, v, e: right(s, c, -m, v, e),
    "mean not scaled": lambda s, c, m, v, e: (ratio(s, v, e), c - m),
    "mean forgotten": lambda s, c, m, v, e: (ratio(s, v, e), c),
    "bias forgotten": lambda s, c, m, v, e: right(s, 0, m, v, e),
    "scale forgotten": lambda s, c, m, v, e: right(1, c, m, v, e),
    "mean and bias swapped": lambda s, c, m, v, e: right(s, m, c, v, e),
}


def cases() -> Iterator[Case]:
    for name, formula in FORMULAS.items():
        yield name, by(formula), normalize()
    default = by(lambda s, c, m, v, e: right(s, c, m, v, 1e-5))
    yield "epsilon of the default", default, normalize("epsilon = 0.001")
    yield "training mode", by(right), normalize("training_mode = 1")
    old = normalize(outputs="z, p, q, r, t", opset=9)
    yield "training mode of old opsets: five outputs", by(right), old

    def ignore_group(self: Any, op: Any, plan: Any) -> ir.Value:
        return plan[0].rebuild(op, plan[0].x, *first_group_for_all(*plan))

    group = mutate(FoldBatchnorm, rewrite=ignore_group)
    yield "group ignored", group, normalize(conv="ConvTranspose")


@mutants(cases())
def test_a_mutant_is_disproved(mutant: Rule[Any], model: ir.Model, seeds: range) -> None:
    disprove(mutant, model, seeds)


def test_without_a_mistake_the_same_is_proved() -> None:
    assert "integer probe exact on" in certificate(by(right), normalize("epsilon = 0.001"))
