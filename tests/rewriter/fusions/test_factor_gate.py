"""Mutants of factor_gate: gates that are off by one, and gates that widen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.fusions.factor_gate import FactorGate
from advconv_onnx.rewriter.rule import Rule
from tests.parsing import parse
from tests.rewriter.fusions.disproving import mutate
from tests.rewriter.fusions.mutants import Case, certificate, disprove, mutants, whole

Build = Callable[[Builder, ir.Value, ir.Value], ir.Value]


def gated(nodes: str = "a = Mul(x, g) z = Add(x, a)") -> ir.Model:
    return parse(
        '<ir_version: 8, opset_import: ["" : 13]> g (float[N, 3, H, W] x, float[N, 3, 1, 1] g) => '
        f"(float[] z) {{ {nodes} }}"
    )


def number(op: Builder, value: float) -> ir.Value:
    return op.initializer(np.float32(value), "number")


def factor(build: Build) -> Rule[Any]:
    return mutate(
        FactorGate,
        find=whole(lambda root: tuple(sorted(root.graph.inputs, key=lambda v: v.name == "g"))),
        rewrite=lambda self, op, plan: build(op, *plan),
    )


WRONG: dict[str, Build] = {
    "gate without x": lambda op, x, g: op.Mul(x, g),
    "gate minus one": lambda op, x, g: op.Mul(x, op.Sub(g, number(op, 1))),
    "gate plus nearly one": lambda op, x, g: op.Mul(x, op.Add(g, number(op, 1.001))),
    "gate of the whole batch": lambda op, x, g: right(op, x, op.ReduceMean(g, axes=[0])),
    "x plus one": lambda op, x, g: op.Mul(g, op.Add(x, number(op, 1))),
}


def right(op: Builder, x: ir.Value, g: ir.Value) -> ir.Value:
    return op.Mul(x, op.Add(g, number(op, 1)))


def cases() -> Iterator[Case]:
    for name, build in WRONG.items():
        yield name, factor(build), gated()
    yield "the gate added", factor(right), gated("a = Mul(x, g) z = Add(g, a)")


@mutants(cases())
def test_a_mutant_is_disproved(mutant: Rule[Any], model: ir.Model, seeds: range) -> None:
    disprove(mutant, model, seeds)


def test_without_a_mistake_the_same_is_proved() -> None:
    assert "integer probe exact on" in certificate(factor(right), gated())
