"""ConvTranspose and Conv composed: what is accepted is certified and equal, mistakes are found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, assume
from hypothesis import strategies as st

from advconv_onnx.optimizer.contest import find_choices
from advconv_onnx.optimizer.prove import Disproved, Prover
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.forms import compose_transposed
from advconv_onnx.rewriter.forms.compose_transposed import FORMS, ComposeTransposed
from advconv_onnx.rewriter.forms.winograd_rows import FORMS as TOOM_COOK
from advconv_onnx.rewriter.proposal import Proposal, Refusal, names_in, propose
from advconv_onnx.rewriter.rule import Site
from tests.parsing import normal, parse
from tests.rewriter.forms.comparing import gap_after
from tests.rewriter.forms.sweeping import sweep

ROUNDING = 1e-5
"""Of the largest output: what new weights lose when they are rounded to float32."""


RARE = ("multiplications", "no output", "nothing but padding")
"""Parts of reasons for which layers as they are drawn here may be refused."""

ROWS = FORMS[0]


def network(
    transposed: str = "strides = [2, 2]",
    conv: str = "pads = [1, 1, 1, 1]",
    kernels: Any = ((2, 2), (3, 3)),
    x: Any = (2, 2, 4, 3),
    bias: bool = True,
    behind: str = "",
    outputs: int = 2,
) -> ir.Model:
    """Few input channels and many between, so that composed nearly all layers multiply less."""
    return parse(
        f"""<ir_version: 8, opset_import: ["" : 18]>
        g (float[{", ".join(map(str, x))}] x) => (float[] z)
        {{ y = ConvTranspose <{transposed}> (x, w{", b" if bias else ""})
           {"k" if behind else "z"} = Conv <{conv}> (y, v, c) {behind} }}""",
        w=normal(x[1], 12, *kernels[0]),
        b=normal(12, seed=1),
        v=normal(outputs, 12, *kernels[1], seed=2),
        c=normal(outputs, seed=3),
    )


def gap(model: ir.Model, form: ComposeTransposed) -> float:
    """Difference in float64 after the rewrite, relative to the largest output; 0 if none runs."""
    return gap_after(model, lambda root: propose(form, root, 18)) or 0.0


def check(model: ir.Model) -> None:
    """Whatever a form proposes is certified and equal; one proposes something."""
    found = [(form, propose(form, model.graph[-1], 18)) for form in FORMS]
    proposals = [(form, result) for form, result in found if isinstance(result, Proposal)]
    reasons = {result.reason for _, result in found if isinstance(result, Refusal)}
    assume(proposals or not any(reason in found for reason in RARE for found in reasons))
    assert proposals, reasons
    for form, proposal in proposals:
        assert "exactly" in Prover({"": 18}, 0).certify(proposal)
        assert gap(model, form) <= ROUNDING, form.name


def numbers(least: int, most: int) -> st.SearchStrategy[list[int]]:
    """One for each of two axes."""
    return st.lists(st.integers(least, most), min_size=2, max_size=2)


@st.composite
def networks(draw: st.DrawFn) -> ir.Model:
    """On each side of each axis the ConvTranspose cuts, the Conv pads, or neither."""
    strides, kernel, dilations = draw(numbers(1, 4)), draw(numbers(1, 5)), draw(numbers(1, 3))
    assume(strides != [1, 1])
    spans = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
    padded = [draw(st.integers(0, span)) for span in spans * 2]
    bias = draw(st.booleans())
    if bias and any(padded):
        spread = {"kernel": strides, "dilations": [1, 1], "extra": [0, 0]}
    else:
        spread = {"kernel": draw(numbers(1, 5)), "dilations": draw(numbers(1, 2))}
        spread["extra"] = [draw(st.integers(0, stride - 1)) for stride in strides]
    cuts = [0 if pad else draw(st.integers(0, 2)) for pad in padded]
    size = draw(numbers(1, 7))
    between = [
        (n - 1) * s + d * (k - 1) + 1 + extra - cuts[i] - cuts[i + 2]
        for i, (n, s, d, k, extra) in enumerate(
            zip(size, strides, spread["dilations"], spread["kernel"], spread["extra"], strict=True)
        )
    ]
    outputs = [n + padded[i] + padded[i + 2] - spans[i] for i, n in enumerate(between)]
    assume(min(*between, *outputs) >= 1)
    behind = draw(st.sampled_from(("", "z = Relu (k)")))
    return network(
        f"strides = {strides}, dilations = {spread['dilations']}, pads = {cuts},"
        f" output_padding = {spread['extra']}",
        f"pads = {padded}, dilations = {dilations}",
        (spread["kernel"], kernel),
        (draw(st.integers(1, 3)), 2, *size),
        bias,
        behind,
    )


test_networks, test_many_networks = sweep(check, networks(), 10, 200, allow=(HealthCheck.too_slow,))


def test_phases_are_sites_of_their_own() -> None:
    """So that a search can go on with them."""
    model = network(x=(1, 12, 8, 8), outputs=8)
    made = propose(ROWS, model.graph[-1], 18)
    assert isinstance(made, Proposal)
    made.commit(names_in(model))
    names = [node.name for node in made.new_nodes]
    choices, _ = find_choices(model, TOOM_COOK, Prover({"": 18}, 0), among=names)
    assert len({choice.root for choice in choices}) == 4


Change = Callable[[Any], Any]


def mutant(change: Change) -> ComposeTransposed:
    """The first variant, with a mistake in what its plans know of the composed layer."""

    class Mutant(ComposeTransposed):
        def find(self, root: ir.Node, opset: int) -> Site[Any]:
            site = super().find(root, opset)
            plan = dataclasses.replace(site.plan, composed=change(site.plan.composed))
            return dataclasses.replace(site, plan=plan)

    return Mutant("mutant", ROWS._split)


def axis(change: Change) -> Change:
    """A mistake in the second axis."""

    def changed(composed: Any) -> Any:
        first, second = composed.axes
        return dataclasses.replace(composed, axes=(first, change(second)))

    return changed


IN_PLANS = {
    "taps not reversed": axis(lambda a: dataclasses.replace(a, places=a.places[::-1])),
    "pads swapped": axis(lambda a: dataclasses.replace(a, pads=(a.pads[0] + 1, a.pads[1] - 1))),
    "a tap too many": axis(lambda a: dataclasses.replace(a, taps=a.taps + 1)),
    "another stride": axis(lambda a: dataclasses.replace(a, stride=a.stride + 1)),
}


@pytest.mark.parametrize("mistake", IN_PLANS.values(), ids=IN_PLANS)
def test_mistakes_in_a_plan_fail_the_certificate(mistake: Change) -> None:
    proposal = propose(mutant(mistake), network().graph[-1], 18)
    assert isinstance(proposal, Proposal)
    with pytest.raises(Disproved):
        Prover({"": 18}, 0).certify(proposal)


def test_a_cut_image_fails_the_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where padding stands for pixels that the ConvTranspose cut off."""
    model = network("strides = [2, 2], pads = [1, 1, 1, 1]", kernels=((4, 4), (3, 3)), bias=False)
    refused = propose(ROWS, model.graph[-1], 18)
    assert isinstance(refused, Refusal)
    assert "cuts off" in refused.reason
    monkeypatch.setattr(compose_transposed, "any", lambda _: False, raising=False)
    proposal = propose(ROWS, model.graph[-1], 18)
    assert isinstance(proposal, Proposal)
    with pytest.raises(Disproved):
        Prover({"": 18}, 0).certify(proposal)


def test_ones_that_do_not_stay_ones_fail_the_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose_transposed, "_needs_ones", lambda *_: True)
    proposal = propose(ROWS, network(kernels=((3, 3), (3, 3))).graph[-1], 18)
    assert isinstance(proposal, Proposal)
    with pytest.raises(Disproved, match="channel of ones"):
        Prover({"": 18}, 0).certify(proposal)


def without_ones(composed: Any) -> Any:
    """The bias between as if it were everywhere, also in the padding."""
    return dataclasses.replace(composed, ones=False)


class NoOnes(ComposeTransposed):
    def rewrite(self, op: Builder, plan: Any) -> ir.Value:
        y = super().rewrite(op, plan)
        for initializer in op.initializers:
            if initializer.name == "ones":
                tensor = initializer.const_value
                assert tensor is not None
                initializer.const_value = ir.tensor(0 * tensor.numpy(), name="ones")
        return y


@pytest.mark.parametrize("wrong", [mutant(without_ones), NoOnes("mutant", ROWS._split)])
def test_a_wrong_bias_at_the_border_fails_the_comparison(wrong: ComposeTransposed) -> None:
    assert gap(network(), ROWS) <= ROUNDING
    assert gap(network(), wrong) > 100 * ROUNDING
