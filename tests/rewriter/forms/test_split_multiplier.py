"""Depth multipliers taken apart: what is accepted is certified and equal, mistakes are found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import strategies as st

from advconv_onnx.optimizer.prove import Disproved, Prover
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.forms import split_multiplier
from advconv_onnx.rewriter.forms.split_multiplier import FORMS, SplitMultiplier
from advconv_onnx.rewriter.proposal import Proposal, Refusal, propose
from tests.parsing import normal, parse
from tests.rewriter.forms.comparing import gap_after
from tests.rewriter.forms.sweeping import sweep

FORM = {form.name: form for form in FORMS}
ACTIVATED = "a = HardSwish (y) z = Conv <pads = [0, 1, 1, 0]> (a, v, d)"


def network(
    behind: str = "",
    channels: int = 4,
    multiplier: int = 3,
    kernel: Any = (3, 3),
    conv: str = "",
    shape: Any = (2, 7, 8),
) -> ir.Model:
    """A depthwise Conv of so many outputs per channel, and perhaps more behind it."""
    batch, height, width = shape
    return parse(
        f"""<ir_version: 8, opset_import: ["" : 14]>
        g (float[{batch}, {channels}, {height}, {width}] x) => (float[] z)
        {{ {"y" if behind else "z"} = Conv <group = {channels} {conv}> (x, w, b) {behind} }}""",
        w=normal(channels * multiplier, 1, *kernel),
        b=normal(channels * multiplier, seed=1),
        v=normal(5, channels * multiplier, 1, 2, seed=2),
        d=normal(5, seed=3),
    )


def proposed(form: SplitMultiplier, model: ir.Model) -> Proposal:
    made = propose(form, model.graph[-1], 14)
    assert isinstance(made, Proposal)
    return made


def check(data: st.DataObject) -> None:
    kernel = [data.draw(st.integers(1, 7), label="kernel") for _ in range(2)]
    strides = [data.draw(st.integers(1, 4), label="stride") for _ in kernel]
    dilations = [data.draw(st.integers(1, 24), label="dilation") for _ in kernel]
    pads = [data.draw(st.integers(0, 5), label="pad") for _ in range(4)]
    behind = data.draw(st.sampled_from(("", ACTIVATED, ACTIVATED.replace("HardSwish", "Relu"))))
    spans = [dilations[i] * (kernel[i] - 1) + 1 - sum(pads[i::2]) for i in range(2)]
    model = network(
        behind,
        data.draw(st.sampled_from((4, 8))),
        data.draw(st.integers(2, 5)),
        kernel,
        f", strides = {strides}, dilations = {dilations}, pads = {pads}",
        [data.draw(st.integers(1, 3)), *(max(1, s) + data.draw(st.integers(1, 6)) for s in spans)],
    )
    for form in FORMS:
        if form.name.endswith("permuted") == bool(behind):
            assert "exact" in Prover({"": 14}, 0).certify(proposed(form, model))
            gap = gap_after(model, lambda node, form=form: propose(form, node, 14))
            assert gap is None or gap <= 1e-12


test_certified_and_equal, test_certified_and_equal_long = sweep(check, st.data(), 30, 600)


def test_maps_smaller_than_the_kernel_are_compared() -> None:
    model = network(kernel=(5, 7), conv=", pads = [2, 3, 2, 3]", shape=(1, 2, 3))
    for name in ("split_multiplier", "repeat_channels"):
        gap = gap_after(model, lambda node, name=name: propose(FORM[name], node, 14))
        assert gap is not None
        assert gap <= 1e-12


def made(form: SplitMultiplier, model: ir.Model) -> list[str]:
    return [node.op_type for node in proposed(form, model).new_nodes]


def test_variants_build_what_they_are_named_for() -> None:
    alone, dense = network(), network(ACTIVATED)
    assert made(FORM["split_multiplier"], alone) == ["Conv"] * 3 + ["Concat", "Gather"]
    assert made(FORM["repeat_channels"], alone) == ["Gather", "Conv"]
    last = ["HardSwish", "Conv"]
    assert made(FORM["split_multiplier_permuted"], dense) == ["Conv"] * 3 + ["Concat", *last]
    assert made(FORM["repeat_channels_permuted"], dense) == ["Concat", "Conv", *last]


@pytest.mark.parametrize("name", ["split_multiplier_permuted", "repeat_channels_permuted"])
def test_only_dense_convolutions_are_permuted(name: str) -> None:
    softmax = ACTIVATED.replace("HardSwish", "Softmax")
    assert propose(FORM[name], network(softmax).graph[-1], 14) is None
    grouped = ACTIVATED.replace("<", "<group = 6, ").replace("a, v, d", "a, w")
    assert propose(FORM[name], network(grouped, kernel=(1, 1)).graph[-1], 14) is None
    also_read = network("z = Conv (y, v, d)", kernel=(1, 1))
    also_read.graph.outputs.append(also_read.graph[0].outputs[0])
    assert isinstance(propose(FORM[name], also_read.graph[-1], 14), Refusal)


def orders(change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Any:
    own = split_multiplier._orders
    return lambda depthwise, by_channel: change(*own(depthwise, by_channel=by_channel))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize(
    "change",
    [
        lambda filters, reads: (filters, np.roll(reads, 1)),
        lambda filters, reads: (np.roll(filters, 1), reads),
        lambda filters, reads: (filters[::-1], reads),
        lambda filters, reads: (np.where(filters == 1, 0, filters), reads),
    ],
    ids=["other channels", "other filters", "filters backwards", "a filter twice"],
)
def test_wrong_orders_are_not_certified(
    form: SplitMultiplier, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_multiplier, "_orders", orders(change))
    model = network(ACTIVATED if form.name.endswith("permuted") else "")
    with pytest.raises(Disproved):
        Prover({"": 14}, 0).certify(proposed(form, model))


class NotPermuted(SplitMultiplier):
    """The dense convolution keeps its weight."""

    def rewrite(self, op: Builder, plan: Any) -> ir.Value:
        own = plan.dense.weight[:, plan.places]  # Permuted once more, these are as they were.
        dense = dataclasses.replace(plan.dense, weight=own)
        return super().rewrite(op, dataclasses.replace(plan, dense=dense))


class NoActivation(SplitMultiplier):
    def rewrite(self, op: Builder, plan: Any) -> ir.Value:
        return super().rewrite(op, dataclasses.replace(plan, activation=None))


class NoBias(SplitMultiplier):
    def rewrite(self, op: Builder, plan: Any) -> ir.Value:
        none = np.zeros_like(plan.depthwise.bias)
        depthwise = dataclasses.replace(plan.depthwise, bias=none)
        return super().rewrite(op, dataclasses.replace(plan, depthwise=depthwise))


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("mutant", [NotPermuted, NoActivation, NoBias])
def test_mistakes_are_found(mutant: type[SplitMultiplier], repeats: bool) -> None:
    form = mutant("mutant", repeats=repeats, permutes=True)
    with pytest.raises(Disproved):
        Prover({"": 14}, 0).prove(proposed(form, network(ACTIVATED)))
