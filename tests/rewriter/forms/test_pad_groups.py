"""Groups widened by zeros: what is accepted is certified and equal, mistakes are found."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import strategies as st

from advconv_onnx.optimizer.prove import Disproved, Prover
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.forms.pad_groups import FORMS, PadGroups
from advconv_onnx.rewriter.proposal import Proposal, Refusal, propose
from tests.parsing import normal, parse
from tests.rewriter.forms.comparing import gap_after
from tests.rewriter.forms.sweeping import sweep

(FORM,) = FORMS


def network(
    group: int = 3,
    channels: tuple[int, int] = (9, 12),
    kernel: Any = (3, 3),
    conv: str = "",
    shape: Any = (2, 6, 7),
    activation: str = "Sigmoid",
) -> ir.Model:
    """Two dense Convs around a grouped one of so many input and output channels in each group."""
    inputs, outputs = (group * size for size in channels)
    batch, height, width = shape
    return parse(
        f"""<ir_version: 8, opset_import: ["" : 14]>
        g (float[{batch}, 3, {height}, {width}] x) => (float[] z)
        {{ c = Conv <pads = [0, 1, 0, 0]> (x, u, a) d = {activation} (c)
           e = Conv <group = {group} {conv}> (d, w, b) z = Conv <pads = [1, 1, 1, 1]> (e, v) }}""",
        u=normal(inputs, 3, 1, 2),
        a=normal(inputs, seed=1),
        w=normal(outputs, channels[0], *kernel, seed=2),
        b=normal(outputs, seed=3),
        v=normal(4, outputs, 2, 1, seed=4),
    )


def proposed(form: PadGroups, model: ir.Model) -> Proposal:
    made = propose(form, model.graph[-1], 14)
    assert isinstance(made, Proposal)
    return made


def check(data: st.DataObject) -> None:
    kernel = [data.draw(st.integers(1, 7), label="kernel") for _ in range(2)]
    strides = [data.draw(st.integers(1, 4), label="stride") for _ in kernel]
    dilations = [data.draw(st.integers(1, 24), label="dilation") for _ in kernel]
    pads = [data.draw(st.integers(0, 5), label="pad") for _ in range(4)]
    spans = [dilations[i] * (kernel[i] - 1) + 1 - sum(pads[i::2]) for i in range(2)]
    model = network(
        data.draw(st.integers(2, 5), label="group"),
        data.draw(st.sampled_from(((9, 12), (12, 16), (16, 10), (24, 20), (17, 14)))),
        kernel,
        f", strides = {strides}, dilations = {dilations}, pads = {pads}",
        [data.draw(st.integers(1, 3)), *(max(1, s) + data.draw(st.integers(0, 4)) for s in spans)],
        data.draw(st.sampled_from(("Relu", "Sigmoid", "HardSwish"))),
    )
    assert "exact" in Prover({"": 14}, 0).certify(proposed(FORM, model))
    gap = gap_after(model, lambda node: propose(FORM, node, 14))
    assert gap is not None
    assert gap <= 1e-12


test_certified_and_equal, test_certified_and_equal_long = sweep(check, st.data(), 20, 300)


def test_groups_fill_blocks() -> None:
    made = proposed(FORM, network(channels=(9, 20))).new_nodes
    shapes = [tuple(n.inputs[1].shape.numpy()) for n in made if n.op_type == "Conv"]
    assert shapes == [(48, 3, 1, 2), (96, 16, 3, 3), (4, 96, 2, 1)]


def test_channels_that_something_else_reads_stay() -> None:
    model = network()
    model.graph.outputs.append(model.graph[0].outputs[0])
    assert isinstance(propose(FORM, model.graph[-1], 14), Refusal)


class Mutant(PadGroups):
    """A form with one mistake in its plan."""

    def __init__(self, **change: Any) -> None:
        self._change = change

    def find(self, root: ir.Node, opset: int) -> Any:
        site = super().find(root, opset)
        changed = {name: change(getattr(site.plan, name)) for name, change in self._change.items()}
        return dataclasses.replace(site, plan=dataclasses.replace(site.plan, **changed))


def placed(change: Any) -> Any:
    return lambda channels: dataclasses.replace(channels, places=change(channels.places))


@pytest.mark.parametrize("channels", ["inputs", "outputs"])
@pytest.mark.parametrize(
    "change",
    [
        lambda places: np.arange(len(places)),
        lambda places: np.where(places == 1, 0, places),
        lambda places: places.reshape(3, -1)[[0, 2, 1]].reshape(-1),
    ],
    ids=["groups run together", "a place twice", "groups swapped"],
)
def test_wrong_places_are_not_certified(channels: str, change: Any) -> None:
    with pytest.raises(Disproved):
        Prover({"": 14}, 0).certify(proposed(Mutant(**{channels: placed(change)}), network()))


class NoBias(PadGroups):
    def rewrite(self, op: Builder, plan: Any) -> ir.Value:
        none = dataclasses.replace(plan.grouped, bias=np.zeros_like(plan.grouped.bias))
        return super().rewrite(op, dataclasses.replace(plan, grouped=none))


@pytest.mark.parametrize("mutant", [Mutant(before=lambda node: None), NoBias()])
def test_mistakes_are_found(mutant: PadGroups) -> None:
    with pytest.raises(Disproved):
        Prover({"": 14}, 0).prove(proposed(mutant, network()))
