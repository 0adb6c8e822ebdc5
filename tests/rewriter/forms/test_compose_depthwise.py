"""Depthwise and 1x1 convolutions in one: what is accepted is equal, mistakes are found."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advconv_onnx.optimizer.prove import Disproved, Prover
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.forms.compose_depthwise import FORMS, ComposeDepthwise
from advconv_onnx.rewriter.proposal import Proposal, names_in, propose
from advconv_onnx.runtime.probe import difference
from tests.parsing import normal, parse

SHORT = settings(max_examples=30, deadline=None, derandomize=True)

(FORM,) = FORMS


def network(c: int, kernel: Any = (3, 3), conv: str = "pads = [1, 1, 1, 1]") -> Any:
    return parse(
        f"""<ir_version: 8, opset_import: ["" : 13]> g (float[N, {c}, H, W] x) => (float[] z)
        {{ y = Conv <group = {c}, {conv}> (x, w, b) z = Conv (y, v, d) }}""",
        w=normal(c, 1, *kernel),
        b=normal(c, seed=1),
        v=normal(5, c, 1, 1, seed=2),
        d=normal(5, seed=3),
    )


def proposed(form: ComposeDepthwise, model: ir.Model) -> Proposal:
    made = propose(form, model.graph[-1], 13)
    assert isinstance(made, Proposal)
    return made


@given(st.data())
@SHORT
def test_equal(data: st.DataObject) -> None:
    kernel = [data.draw(st.integers(1, 7)) for _ in range(2)]
    dilations = [data.draw(st.integers(1, 24)) for _ in range(2)]
    strides = [data.draw(st.integers(1, 4)) for _ in range(2)]
    pads = [data.draw(st.integers(0, 5)) for _ in range(4)]
    c, batch = data.draw(st.integers(2, 7)), data.draw(st.integers(1, 3))
    model = network(c, kernel, f"strides = {strides}, dilations = {dilations}, pads = {pads}")
    spans = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    sizes = [
        max(1, s - sum(pads[i::2])) + data.draw(st.integers(0, 9)) for i, s in enumerate(spans)
    ]
    changed = model.clone()
    proposed(FORM, changed).commit(names_in(changed))
    found = difference(model, changed, {"x": normal(batch, c, *sizes)})
    assert found is not None
    assert found[0] <= 1e-6 * found[1]  # The composed weights are rounded to float32.


class NoBiasThrough(ComposeDepthwise):
    def rewrite(self, op: Builder, plan: Any) -> ir.Value:
        first, second = plan
        weight = np.einsum("mn,nhw->mnhw", second.weight[..., 0, 0], first.weight[:, 0])
        return first.rebuild(op, first.x, weight, second.bias, group=1)


class BiasUnmixed(ComposeDepthwise):
    def rewrite(self, op: Builder, plan: Any) -> ir.Value:
        first, second = plan
        weight = np.einsum("mn,nhw->mnhw", second.weight[..., 0, 0], first.weight[:, 0])
        return first.rebuild(op, first.x, weight, second.bias + first.bias.sum(), group=1)


@pytest.mark.parametrize("mutant", [NoBiasThrough, BiasUnmixed])
def test_mistakes_are_found(mutant: type[ComposeDepthwise]) -> None:
    with pytest.raises(Disproved):
        Prover({"": 13}, 0).certify(proposed(mutant(), network(3)))


def test_the_form_itself_is_proved() -> None:
    assert "exact" in Prover({"": 13}, 0).certify(proposed(FORM, network(3)))
