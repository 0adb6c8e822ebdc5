"""Convolutions before an AveragePool: what is accepted is certified and equal, mistakes found."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import assume
from hypothesis import strategies as st

from advconv_onnx.algebra.certificate import NotEqual
from advconv_onnx.optimizer.prove import Disproved, Prover
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.forms.stride_pooled import FORMS, StridePooled
from advconv_onnx.rewriter.proposal import Proposal, Refusal, propose
from tests.parsing import normal, parse
from tests.rewriter.forms.comparing import gap_after
from tests.rewriter.forms.sweeping import sweep

(FORM,) = FORMS

ROUNDING = 1e-6
"""The composed weights are rounded to float32."""


def network(
    kernel: Any = (3, 3),
    conv: str = "pads = [1, 0, 1, 2]",
    pool: str = "kernel_shape = [2, 2], strides = [2, 2]",
    sizes: Any = (9, 8),
    group: int = 1,
    batch: int = 1,
) -> Any:
    return parse(
        f"""<ir_version: 8, opset_import: ["" : 18]>
        g (float[{batch}, 4, {sizes[0]}, {sizes[1]}] x) => (float[] z)
        {{ u = Conv <group = {group}, {conv}> (x, w, b) z = AveragePool <{pool}> (u) }}""",
        w=normal(8, 4 // group, *kernel),
        b=normal(8, seed=1),
    )


def proposed(form: StridePooled, model: ir.Model) -> Proposal:
    made = propose(form, model.graph[-1], 18)
    assert isinstance(made, Proposal), made
    return made


def check(data: st.DataObject) -> None:
    kernel = [data.draw(st.integers(1, 7)) for _ in range(2)]
    dilations = [data.draw(st.sampled_from((1, 1, 1, 2, 4, 24))) for _ in range(2)]
    strides = [data.draw(st.integers(1, 4)) for _ in range(2)]
    pads = [data.draw(st.integers(0, 5)) for _ in range(4)]
    window = [data.draw(st.integers(1, 4)) for _ in range(2)]
    steps = [data.draw(st.integers(1, 4)) for _ in range(2)]
    group, batch = data.draw(st.sampled_from((1, 2, 4))), data.draw(st.integers(1, 3))
    spans = [
        (p - 1) * s + (k - 1) * d + 1
        for k, d, s, p in zip(kernel, dilations, strides, window, strict=True)
    ]
    sizes = [
        max(1, span - sum(pads[i::2])) + data.draw(st.integers(0, 9))
        for i, span in enumerate(spans)
    ]
    conv = f"strides = {strides}, dilations = {dilations}, pads = {pads}"
    pool = f"kernel_shape = {window}, strides = {steps}"
    model = network(kernel, conv, pool, sizes, group, batch)
    made = propose(FORM, model.graph[-1], 18)
    if isinstance(made, Refusal):
        assert "more" in made.reason
        assume(False)
    made.discard()
    assert "exact" in Prover({"": 18}, 0).certify(proposed(FORM, model.clone()))
    gap = gap_after(model, lambda root: propose(FORM, root, 18))
    assert gap is not None
    assert gap <= ROUNDING


test_certified_and_equal, test_certified_and_equal_long = sweep(check, st.data(), 40, 600)


@pytest.mark.parametrize("kernel", [(3, 1), (4, 5)])
def test_dynamic_sizes_are_certified_as_all_sizes(kernel: Any) -> None:
    model = network(kernel, "strides = [2, 1], pads = [0, 9, 3, 0]", sizes=("H", "W"))
    certificate = Prover({"": 18}, 0).certify(proposed(FORM, model))
    assert certificate.count("which prove all others") == 2


def test_taps_keep_a_dilation_that_all_offsets_share() -> None:
    model = network((3, 1), "strides = [2, 3], dilations = [4, 5]", sizes=("H", "W"))
    plan = FORM.find(model.graph[-1], 18).plan
    # The taps of the rows lie at 0, 2 ... 10, those of the columns at 0 and 3.
    assert (plan.composed.kernel, plan.composed.dilations) == ((6, 2), (2, 3))
    assert plan.composed.strides == (4, 6)


def test_refused_without_output() -> None:
    made = propose(FORM, network(sizes=(1, 8)).graph[-1], 18)
    assert isinstance(made, Refusal)
    assert "no output" in made.reason


def _swapped(plan: Any) -> Any:
    composed = plan.composed
    wrong = dataclasses.replace(composed, begins=composed.ends, ends=composed.begins)
    return dataclasses.replace(plan, composed=wrong)


def _stride_of_the_pool(plan: Any) -> Any:
    wrong = dataclasses.replace(plan.composed, strides=plan.averaging.strides)
    return dataclasses.replace(plan, composed=wrong)


def _reversed(plan: Any) -> Any:
    return dataclasses.replace(plan, spreads=tuple(s[::-1] for s in plan.spreads))


def _one_entry(plan: Any) -> Any:
    first, *others = plan.spreads
    wrong = ((first[0][0] / 2, *first[0][1:]), *first[1:])
    return dataclasses.replace(plan, spreads=(wrong, *others))


def _sum(plan: Any) -> Any:
    spreads = tuple(tuple(tuple(Fraction(v > 0) for v in r) for r in s) for s in plan.spreads)
    return dataclasses.replace(plan, spreads=spreads)


@pytest.mark.parametrize("mistake", [_swapped, _stride_of_the_pool, _reversed, _one_entry, _sum])
def test_wrong_plans_are_not_certified(mistake: Any) -> None:
    plan = FORM.find(network(conv="strides = [2, 2], pads = [1, 0, 2, 2]").graph[-1], 18).plan
    assert len(list(FORM.certify(plan))) == 4
    with pytest.raises(NotEqual):
        list(FORM.certify(mistake(plan)))


class NoBias(StridePooled):
    def rewrite(self, op: Builder, plan: Any) -> ir.Value:
        return super().rewrite(op, _without_bias(plan))


def _without_bias(plan: Any) -> Any:
    silent = dataclasses.replace(plan.convolution, bias=np.zeros(8))
    return dataclasses.replace(plan, convolution=silent)


class Transposed(StridePooled):
    def rewrite(self, op: Builder, plan: Any) -> ir.Value:
        weight = plan.convolution.weight.swapaxes(2, 3)
        turned = dataclasses.replace(plan.convolution, weight=weight)
        return super().rewrite(op, dataclasses.replace(plan, convolution=turned))


@pytest.mark.parametrize("mutant", [NoBias, Transposed])
def test_mistakes_are_found(mutant: type[StridePooled]) -> None:
    with pytest.raises(Disproved):
        Prover({"": 18}, 0).prove(proposed(mutant(), network()))
