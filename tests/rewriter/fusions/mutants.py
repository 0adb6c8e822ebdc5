"""What the tests of mutants share: small sites, and rules with one mistake of the kind people make.

Mutants that must fail are the measure of the prover: if one were proved, a wrong model could ship.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.optimizer.prove import Disproved, Prover
from advconv_onnx.rewriter.proposal import Proposal, Refusal, propose
from advconv_onnx.rewriter.rule import NoSite, Rule, Site
from tests.parsing import normal, parse

C, S = normal(4, seed=2), np.array([1.5, -2, 0.5, 3], np.float32)
PER_CHANNEL = C.reshape(4, 1, 1)
BIAS = normal(4, seed=1)
SQUARE, GROUPED = normal(4, 4, 2, 3), normal(4, 2, 2, 3)

Case = tuple[str, Rule[Any], ir.Model]
"""What is wrong, the mutant, and a site where it matters."""

_SEEDS = ((range(1), ()), (range(1, 40), (pytest.mark.long,)))


def site(nodes: str, x: str = "N, 4, H, W", opset: int = 15, **weights: Any) -> ir.Model:
    """A model from a float ``x`` to ``z``; weights without a type are float32."""
    arrays = {name: np.asarray(w, getattr(w, "dtype", np.float32)) for name, w in weights.items()}
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[{x}] x) => (float[] z)'
    return parse(f"{text} {{ {nodes} }}".replace("<>", ""), **arrays)


def whole(plan: Callable[[ir.Node], Any]) -> Callable[..., Site[Any]]:
    """A ``find`` without refusals: the site is the whole graph, with ``plan(root)``."""

    def find(self: Any, root: ir.Node, opset: int) -> Site[Any]:
        nodes = tuple(root.graph or ())
        if root is not nodes[-1]:
            raise NoSite
        return Site(nodes, plan(root))

    return find


def constant_of(node: ir.Node, name: str) -> np.ndarray:
    """The float64 values of one of a node's constants, by the name it has in the site."""
    (value,) = [value for value in node.inputs if value is not None and value.name == name]
    assert value.const_value is not None
    return value.const_value.numpy().reshape(-1).astype(np.float64)


def proposal(rule: Rule[Any], model: ir.Model) -> Proposal:
    """The one proposal that a rule makes for a model."""
    made = [propose(rule, node, model.opset_imports[""]) for node in model.graph]
    (found,) = [one for one in made if not (one is None or isinstance(one, Refusal))]
    return found


def certificate(rule: Rule[Any], model: ir.Model, seed: int = 0) -> str:
    """What the proof of a rule's one proposal says."""
    found = proposal(rule, model)
    try:
        return Prover(dict(model.opset_imports), seed).prove(found)
    finally:
        found.discard()


def mutants(cases: Iterable[Case]) -> pytest.MarkDecorator:
    """Parametrize a test with (mutant, model, seeds): one seed, and in long runs many more."""
    return pytest.mark.parametrize(
        ("mutant", "model", "seeds"),
        [
            pytest.param(mutant, model, seeds, id=f"{name}, {len(seeds)} seeds", marks=marks)
            for name, mutant, model in cases
            for seeds, marks in _SEEDS
        ],
    )


def disprove(mutant: Rule[Any], model: ir.Model, seeds: Iterable[int]) -> None:
    """Check that a mutant is disproved, on evidence and not because its site does not run."""
    for seed in seeds:
        with pytest.raises(Disproved) as evidence:
            certificate(mutant, model, seed)
        assert "\n" not in str(evidence.value)
        assert "shapes tried" not in str(evidence.value), "the site itself must run"
