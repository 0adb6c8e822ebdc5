"""1x1 convolutions before a Resize: what is accepted is certified and equal, mistakes are found."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import strategies as st

from advconv_onnx.algebra.certificate import NotEqual
from advconv_onnx.optimizer.prove import Disproved, Prover
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.forms import swap_pointwise
from advconv_onnx.rewriter.forms.swap_pointwise import FORMS, SwapPointwise
from advconv_onnx.rewriter.proposal import Proposal, names_in, propose
from advconv_onnx.runtime.probe import difference
from tests.parsing import normal, parse
from tests.rewriter.forms.sweeping import sweep

(FORM,) = FORMS


def network(
    mode: str,
    scales: Any = (2, 2),
    sizes: Any = (5, 4),
    batch: int = 1,
    g: int = 1,
    bias: float = 1,
) -> Any:
    return parse(
        f"""<ir_version: 8, opset_import: ["" : 18]>
        g (float[{batch}, 4, {sizes[0]}, {sizes[1]}] x) => (float[] z)
        {{ u = Resize <{mode}> (x, , s) z = Conv <group = {g}> (u, w, b) }}""",
        s=np.array([1, 1, *scales], np.float32),
        w=normal(6, 4 // g, 1, 1),
        b=normal(6, seed=1) * np.float32(bias),
    )


def proposed(form: SwapPointwise, model: ir.Model) -> Proposal:
    made = propose(form, model.graph[-1], 18)
    assert isinstance(made, Proposal)
    return made


def gap(form: SwapPointwise, model: ir.Model, x: np.ndarray) -> float:
    """Of the outputs in float64, relative to the largest."""
    changed = model.clone()
    proposed(form, changed).commit(names_in(changed))
    found = difference(model, changed, {"x": x})
    assert found is not None
    return found[0] / found[1]


def check(data: st.DataObject) -> None:
    mode = data.draw(st.sampled_from(("nearest", "linear", "cubic")))
    places = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    place = data.draw(st.sampled_from(places))
    attributes = f'mode = "{mode}", coordinate_transformation_mode = "{place}"'
    scales = [data.draw(st.sampled_from((1, 1.5, 2, 3, 4))) for _ in range(2)]
    sizes = [data.draw(st.integers(2, 7)) for _ in range(2)]
    batch, g = data.draw(st.integers(1, 3)), data.draw(st.sampled_from((1, 2)))
    if scales == [1, 1]:
        return
    # The float64 reference rounds cubic weights to float32, so that they add up to 1 only nearly: a
    # bias tells. Their exact sum is certified.
    model = network(attributes, scales, sizes, batch, g, bias=mode != "cubic")
    assert "exact" in Prover({"": 18}, 0).certify(proposed(FORM, model.clone()))
    assert gap(FORM, model, normal(batch, 4, *sizes)) <= 1e-12


test_certified_and_equal, test_certified_and_equal_long = sweep(check, st.data(), 15, 200)


def test_a_bias_does_not_pass_weights_that_do_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    own = swap_pointwise.operator_of
    monkeypatch.setattr(swap_pointwise, "operator_of", lambda *a: own(*a).scaled(2))
    (plan,) = [FORM.find(network('mode = "linear"').graph[-1], 18).plan]
    with pytest.raises(NotEqual):
        list(FORM.certify(plan))
    # The order alone is right for any weights, once the layer is twice itself as well.
    monkeypatch.setattr(type(plan.layer), "operator", lambda s, a, n: own(s.nodes, a, n).scaled(2))
    with pytest.raises(NotEqual, match="constant"):
        list(FORM.certify(plan))


class NoBias(SwapPointwise):
    def rewrite(self, op: Builder, plan: Any) -> ir.Value:
        y = op.Conv(plan.layer.x, op.initializer(plan.layer.convolution.weight, "w"))
        return op.Resize(y, *plan.resize.inputs[1:], **plan.resize.attributes)


class DefaultMode(SwapPointwise):
    def rewrite(self, op: Builder, plan: Any) -> ir.Value:
        convolution = plan.layer.convolution
        y = convolution.rebuild(op, plan.layer.x, convolution.weight, convolution.bias)
        return op.Resize(y, *plan.resize.inputs[1:])


@pytest.mark.parametrize("mutant", [NoBias, DefaultMode])
def test_mistakes_are_found(mutant: type[SwapPointwise]) -> None:
    model = network('mode = "linear"')
    with pytest.raises(Disproved):
        Prover({"": 18}, 0).prove(proposed(mutant(), model.clone()))
    assert gap(mutant(), model, normal(1, 4, 5, 4)) > 0.01
