"""Groups made wider: what is accepted is equal, mistakes are found."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import assume
from hypothesis import strategies as st

from advconv_onnx.optimizer.prove import Disproved, Prover
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Array, Convolution
from advconv_onnx.rewriter.forms.regroup import FORMS, Regroup
from advconv_onnx.rewriter.proposal import Proposal, names_in, propose
from advconv_onnx.runtime.probe import difference
from tests.parsing import normal, parse
from tests.rewriter.forms.sweeping import sweep


def layer(group: int, inputs: int, outputs: int, kernel: tuple[int, ...], conv: str = "") -> Any:
    """A Conv with so many channels in each group."""
    return parse(
        f"""<ir_version: 8, opset_import: ["" : 13]>
        g (float[N, {group * inputs}, H, W] x) => (float[] z)
        {{ z = Conv <group = {group} {conv}> (x, w, b) }}""",
        w=normal(group * outputs, inputs, *kernel),
        b=normal(group * outputs, seed=1),
    )


def proposed(form: Regroup, model: ir.Model) -> Proposal:
    made = propose(form, model.graph[-1], 13)
    assert isinstance(made, Proposal)
    return made


def groups_of(form: Regroup, model: ir.Model) -> int | None:
    made = propose(form, model.graph[-1], 13)
    if not isinstance(made, Proposal):
        return None
    return made.new_nodes[-1].attributes.get_int("group", 1)


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((32, 4, 4), [8, 4, None, None]),
        ((8, 8, 8), [4, 2, None, 1]),
        ((4, 4, 4), [None, None, None, 1]),
        ((32, 1, 2), [2, None, None, None]),
        ((12, 2, 4), [None, None, None, 1]),
        ((64, 4, 4), [16, 8, None, None]),
        ((4, 12, 12), [None, None, None, 1]),
        ((14, 24, 24), [None, None, 7, 1]),
    ],
)
def test_variants_have_their_width(shape: tuple[int, int, int], wanted: list[int | None]) -> None:
    model = layer(*shape, (1, 1))
    assert [groups_of(form, model) for form in FORMS] == wanted


def check(data: st.DataObject) -> None:
    kernel = tuple(data.draw(st.integers(1, 7), label="kernel") for _ in range(2))
    strides = [data.draw(st.integers(1, 4), label="stride") for _ in kernel]
    dilations = [data.draw(st.integers(1, 24), label="dilation") for _ in kernel]
    pads = [data.draw(st.integers(0, 5), label="pad") for _ in range(4)]
    group = data.draw(st.sampled_from((2, 4, 8, 16)), label="group")
    inputs, outputs = (data.draw(st.integers(1, 8), label="channels") for _ in range(2))
    assume(not inputs == outputs == 1)
    attributes = f", strides = {strides}, dilations = {dilations}, pads = {pads}"
    model = layer(group, inputs, outputs, kernel, attributes)
    batch = data.draw(st.integers(1, 3), label="batch")
    sizes = [
        data.draw(st.integers(max(1, d * (k - 1) + 1 - sum(pads[i::2])), d * k + 5), label="size")
        for i, (d, k) in enumerate(zip(dilations, kernel, strict=True))
    ]
    x = normal(batch, group * inputs, *sizes)
    for form in (form for form in FORMS if groups_of(form, model)):
        changed = model.clone()
        proposed(form, changed).commit(names_in(changed))
        found = difference(model, changed, {"x": x})
        assert found is not None
        assert found[0] <= 1e-12 * found[1] * math.sqrt(inputs)


test_equal, test_equal_long = sweep(check, st.data(), 40, 800)


class GroupsSwapped(Regroup):
    def rewrite(self, op: Builder, plan: Any) -> ir.Value:
        return _rebuilt(op, plan, plan.convolution.blocks(plan.groups)[::-1])


class TransposedBlocks(Regroup):
    def rewrite(self, op: Builder, plan: Any) -> ir.Value:
        return _rebuilt(op, plan, plan.convolution.blocks(plan.groups).swapaxes(1, 2))


class Repeated(Regroup):
    """Every group reads the first one's inputs."""

    def rewrite(self, op: Builder, plan: Any) -> ir.Value:
        blocks = plan.convolution.blocks(plan.groups)
        width = plan.convolution.in_channels // plan.convolution.group
        return _rebuilt(op, plan, np.roll(blocks, width, axis=2))


class NoBias(Regroup):
    def rewrite(self, op: Builder, plan: Any) -> ir.Value:
        convolution: Convolution = plan.convolution
        weight = convolution.from_blocks(convolution.blocks(plan.groups))
        none = np.zeros_like(convolution.bias)
        return convolution.rebuild(op, convolution.x, weight, none, group=plan.groups)


def _rebuilt(op: Builder, plan: Any, blocks: Array) -> ir.Value:
    convolution: Convolution = plan.convolution
    weight = convolution.from_blocks(blocks)
    return convolution.rebuild(op, convolution.x, weight, convolution.bias, group=plan.groups)


@pytest.mark.parametrize("mutant", [GroupsSwapped, TransposedBlocks, Repeated, NoBias])
def test_mistakes_are_found(mutant: type[Regroup]) -> None:
    made = proposed(mutant(16), layer(8, 4, 4, (3, 3)))
    with pytest.raises(Disproved):
        Prover({"": 13}, 0).certify(made)


def test_the_form_itself_is_proved() -> None:
    assert "exact" in Prover({"": 13}, 0).certify(proposed(Regroup(16), layer(8, 4, 4, (3, 3))))
