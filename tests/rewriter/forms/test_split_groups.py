"""Groups made convolutions of their own: what is accepted is equal, mistakes are found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import strategies as st

from advconv_onnx.optimizer.prove import Disproved, Prover
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.forms import split_groups
from advconv_onnx.rewriter.forms.split_groups import FORMS, SplitGroups
from advconv_onnx.rewriter.proposal import Proposal, propose
from tests.parsing import normal, parse
from tests.rewriter.forms.comparing import gap_after
from tests.rewriter.forms.sweeping import sweep

(FORM,) = FORMS


def layer(
    group: int = 3,
    channels: tuple[int, int] = (4, 5),
    kernel: Any = (3, 3),
    conv: str = "",
    shape: Any = (2, 6, 7),
    opset: int = 13,
) -> ir.Model:
    """A Conv with so many input and output channels in each group."""
    inputs, outputs = channels
    batch, height, width = shape
    return parse(
        f"""<ir_version: 8, opset_import: ["" : {opset}]>
        g (float[{batch}, {group * inputs}, {height}, {width}] x) => (float[] z)
        {{ z = Conv <group = {group} {conv}> (x, w, b) }}""",
        w=normal(group * outputs, inputs, *kernel),
        b=normal(group * outputs, seed=1),
    )


def proposed(form: SplitGroups, model: ir.Model, opset: int = 13) -> Proposal:
    made = propose(form, model.graph[-1], opset)
    assert isinstance(made, Proposal)
    return made


def check(data: st.DataObject) -> None:
    kernel = [data.draw(st.integers(1, 7), label="kernel"), data.draw(st.integers(2, 7))]
    strides = [data.draw(st.integers(1, 4), label="stride") for _ in kernel]
    dilations = [data.draw(st.integers(1, 24), label="dilation") for _ in kernel]
    pads = [data.draw(st.integers(0, 5), label="pad") for _ in range(4)]
    spans = [dilations[i] * (kernel[i] - 1) + 1 - sum(pads[i::2]) for i in range(2)]
    model = layer(
        data.draw(st.integers(2, 8), label="group"),
        (data.draw(st.sampled_from((4, 8, 12))), data.draw(st.integers(1, 7))),
        kernel,
        f", strides = {strides}, dilations = {dilations}, pads = {pads}",
        [data.draw(st.integers(1, 3)), *(max(1, s) + data.draw(st.integers(0, 6)) for s in spans)],
        data.draw(st.sampled_from((11, 13)), label="opset"),
    )
    gap = gap_after(model, lambda node: propose(FORM, node, model.opset_imports[""]))
    assert gap is not None
    assert gap <= 1e-12


test_equal, test_equal_long = sweep(check, st.data(), 30, 600)


@pytest.mark.parametrize(("opset", "inputs"), [(11, 1), (13, 2)])
def test_split_is_spelled_for_the_opset(opset: int, inputs: int) -> None:
    split, *convolutions, concat = proposed(FORM, layer(opset=opset), opset).new_nodes
    assert (split.op_type, len(split.inputs), len(split.outputs)) == ("Split", inputs, 3)
    assert [node.op_type for node in convolutions] == ["Conv"] * 3
    assert all(node.attributes.get_int("group", 0) == 1 for node in convolutions)
    assert concat.op_type == "Concat"


def test_the_form_itself_is_proved() -> None:
    assert "exact" in Prover({"": 13}, 0).certify(proposed(FORM, layer()))


class WeightsSwapped(SplitGroups):
    def rewrite(self, op: Builder, plan: Convolution) -> ir.Value:
        return super().rewrite(op, dataclasses.replace(plan, weight=plan.weight[::-1]))


class Interleaved(SplitGroups):
    """Output channels dealt out to the groups in turn."""

    def rewrite(self, op: Builder, plan: Convolution) -> ir.Value:
        order = np.arange(plan.out_channels).reshape(-1, plan.group).T.reshape(-1)
        weight, bias = plan.weight[order], plan.bias[order]
        return super().rewrite(op, dataclasses.replace(plan, weight=weight, bias=bias))


class NoBias(SplitGroups):
    def rewrite(self, op: Builder, plan: Convolution) -> ir.Value:
        return super().rewrite(op, dataclasses.replace(plan, bias=np.zeros_like(plan.bias)))


@pytest.mark.parametrize("mutant", [WeightsSwapped, Interleaved, NoBias])
def test_mistakes_are_found(mutant: type[SplitGroups]) -> None:
    with pytest.raises(Disproved):
        Prover({"": 13}, 0).certify(proposed(mutant(), layer()))


def test_parts_in_another_order_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    own = split_groups._split

    def backwards(op: Builder, plan: Convolution) -> Sequence[ir.Value]:
        return own(op, plan)[::-1]

    monkeypatch.setattr(split_groups, "_split", backwards)
    with pytest.raises(Disproved):
        Prover({"": 13}, 0).certify(proposed(FORM, layer()))
