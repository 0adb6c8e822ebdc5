"""Proofs: what a certificate rests on, and what must not be taken for one.

The measure of the prover are the mutants of the rules, in ``tests/rewriter/fusions``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.optimizer.prove import Disproved, Prover
from advconv_onnx.rewriter.fusions.compose_pointwise import ComposePointwise
from advconv_onnx.rewriter.fusions.factor_gate import FactorGate
from advconv_onnx.rewriter.fusions.fold_affine import FoldAffine
from advconv_onnx.rewriter.fusions.fold_affine_forward import FoldAffineForward
from advconv_onnx.rewriter.fusions.fold_batchnorm import FoldBatchnorm
from advconv_onnx.rewriter.fusions.fold_pad import FoldPad
from advconv_onnx.rewriter.fusions.spell_affine import SpellAffine
from advconv_onnx.rewriter.fusions.spell_gelu import SpellGelu
from advconv_onnx.rewriter.fusions.spell_hardswish import SpellHardswish
from advconv_onnx.rewriter.fusions.spell_silu import SpellSilu
from advconv_onnx.rewriter.rule import Refused, Rule, Site
from tests.parsing import normal, parse
from tests.rewriter.fusions.disproving import mutate
from tests.rewriter.fusions.mutants import (
    BIAS,
    GROUPED,
    PER_CHANNEL,
    SQUARE,
    certificate,
    proposal,
    site,
)

C = PER_CHANNEL
RIGHT: tuple[tuple[Rule[Any], ir.Model], ...] = (
    (FoldAffine(), site("y = Conv(x, w, b) z = Add(y, c)", w=SQUARE, b=BIAS, c=C)),
    (
        FoldAffine(),
        site(
            "y = ConvTranspose <group = 2, strides = [2, 1], output_padding = [1, 0]> (x, w) "
            "z = Mul(y, c)",
            w=GROUPED,
            c=C,
        ),
    ),
    (
        FoldAffine(),
        site('y = Conv <auto_pad = "SAME_LOWER"> (x, w) z = Div(y, c)', w=SQUARE, c=C[None]),
    ),
    (
        FoldBatchnorm(),
        site(
            "y = Conv(x, w) z = BatchNormalization <epsilon = 0.001> (y, s, b, b, v)",
            w=SQUARE, s=normal(4), b=BIAS, v=abs(BIAS),
        ),
    ),
    (FoldAffineForward(), site("y = Add(x, c) z = Conv <group = 2> (y, w)", w=GROUPED, c=C)),
    (
        FoldPad(),
        site(
            "y = Pad(x, p) z = ConvTranspose <strides = [2, 3], pads = [2, 6, 6, 0]> (y, w)",
            opset=18, w=SQUARE, p=np.array([0, 0, 1, 2, 0, 0, 3, 0]),
        ),
    ),
    (
        ComposePointwise(),
        site(
            "y = Conv <pads = [1, 1, 0, 0]> (x, w, b) z = Conv(y, u)",
            w=SQUARE, b=BIAS, u=normal(2, 4, 1, 1),
        ),
    ),
    (
        SpellHardswish(),
        site(
            "a = Add(x, t) b = Clip(a, lo, six) d = Mul(x, b) z = Div(d, six)",
            t=3, lo=0, six=6,
        ),
    ),
    (
        SpellGelu(),
        site(
            "a = Pow(x, t) b = Mul(k, a) d = Add(x, b) e = Mul(d, s) f = Tanh(e) i = Add(f, one) "
            "j = Mul(x, i) z = Mul(j, h)",
            opset=20, t=3, k=0.044715, s=0.797884583, one=1, h=0.5,
        ),
    ),
    (
        FactorGate(),
        parse(
            """<ir_version: 8, opset_import: ["" : 13]>
            g (float[N, 3, H, W] x, float[N, 3, 1, 1] g) => (float[] z)
            { a = Mul(x, g) z = Add(x, a) }"""
        ),
    ),
    (SpellAffine(), site("y = Mul(x, a) z = Add(y, c)", a=C[::-1], c=C)),
)  # fmt: skip


@pytest.mark.parametrize(("rule", "model"), RIGHT)
def test_the_rule_itself_is_proved_whatever_the_seed(rule: Rule[Any], model: ir.Model) -> None:
    for seed in range(5):
        found = certificate(rule, model, seed)
        assert found == certificate(rule, model, seed)
        assert ("integer probe exact on" in found) == rule.affine_in_weights


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_float_types_are_proved_with_integers_too(dtype: Any) -> None:
    weights = {"w": SQUARE.astype(dtype), "c": np.full((4, 1, 1), 2, dtype)}
    name = {np.float64: "double", np.float16: "float16"}[dtype]
    model = parse(
        f'<ir_version: 8, opset_import: ["" : 15]> g ({name}[N, 4, H, W] x) => ({name}[] z)'
        "{ y = Conv(x, w) z = Mul(y, c) }",
        **weights,
    )
    assert "exact on 4 shapes; float64 difference 0e+00" in certificate(FoldAffine(), model)


@pytest.mark.parametrize("name", ["w", "w_bias", "n0_0", "z_1"])
def test_names_of_the_graph_do_not_clash_with_those_of_the_proof(name: str) -> None:
    for rule, text, weights in (
        (FoldAffine(), "y = Conv(x, v) z = Add(y, c)", {"v": SQUARE, "c": C}),
        (SpellSilu(), "a = Neg(x) b = Exp(a) d = Add(b, c) z = Div(x, d)", {"c": np.float32(1)}),
        (SpellAffine(), "y = Mul(x, v) z = Add(y, c)", {"v": C, "c": C}),
    ):
        model = site(text, **weights)
        model.graph.inputs[0].name = {"w": "v", "w_bias": "v_bias"}.get(name, name)
        if "v" in weights:
            model.graph.initializers["v"].name = "v" if name != "w" else "k"
        model.graph.node(-1).outputs[0].name = "scale"
        certificate(rule, model)


# One prover for a whole model: sites that are alike share a probe, and nothing else.


def multiplied(**weights: Any) -> ir.Model:
    return site("y = Conv(x, w) z = Mul(y, c)", **{"w": SQUARE, "c": C, **weights})


def rounding() -> Rule[Any]:
    """Right for integers only."""

    def rewrite(self: Any, op: Any, plan: Any) -> ir.Value:
        convolution, affine = plan
        weight = np.round(convolution.scale_output(affine.scale))
        return convolution.rebuild(op, convolution.x, weight, convolution.bias)

    return mutate(FoldAffine, rewrite=rewrite)


def test_a_shared_probe_does_not_hide_what_the_weights_of_another_site_show() -> None:
    rule, prover = rounding(), Prover({"": 15}, 0)
    whole_numbers = multiplied(w=np.round(4 * SQUARE), c=np.round(4 * C))
    assert "integer probe exact" in prover.prove(proposal(rule, whole_numbers))
    with pytest.raises(Disproved, match="with the real weights"):
        prover.prove(proposal(rule, multiplied()))


@pytest.mark.parametrize(
    "other",
    [
        site("y = Conv <pads = [0, 0, 0, 1]> (x, w) z = Mul(y, c)", w=SQUARE, c=C),
        site("y = Conv(x, w, b) z = Mul(y, c)", w=SQUARE, b=BIAS, c=C),
        multiplied(w=normal(4, 4, 3, 3)),
        multiplied(x="2, 4, H, W"),
        site("y = Conv(x, w) z = Mul(c, y)", w=SQUARE, c=C),
    ],
)
def test_sites_that_are_not_alike_are_probed_each(
    other: ir.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes = []

    def count(rule: Any, before: ir.Model, rng: Any) -> str:
        probes.append(before)
        return "integer probe"

    monkeypatch.setattr("advconv_onnx.optimizer.prove._prove_with_integers", count)
    prover = Prover({"": 15}, 0)
    for model in (multiplied(), multiplied(w=2 * SQUARE, c=-C), other):
        prover.prove(proposal(FoldAffine(), model))
    assert len(probes) == 2


def test_a_rule_that_refuses_its_own_site_with_other_weights_is_disproved() -> None:
    """It may say that it is affine in its weights only if all of them are the same to it."""

    def find(self: Any, root: ir.Node, opset: int) -> Site[Any]:
        found = FoldAffine().find(root, opset)
        if abs(found.plan[1].scale).max() > 10:
            raise Refused("the scale is large")
        return found

    with pytest.raises(Disproved, match="does not apply to its own site with integer weights"):
        certificate(mutate(FoldAffine, find=find), multiplied())
