"""Taps put together by matrices: what is accepted is certified and equal, mistakes are found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, assume
from hypothesis import strategies as st

from advconv_onnx.algebra.axis import AxisOperator
from advconv_onnx.optimizer.prove import Disproved, Prover
from advconv_onnx.rewriter.assembly import Assembly
from advconv_onnx.rewriter.forms import assemble_rows
from advconv_onnx.rewriter.forms.assemble_rows import FORMS, AssembleRows
from advconv_onnx.rewriter.layer_site import LayerSite
from advconv_onnx.rewriter.proposal import Proposal, propose
from tests.parsing import normal, parse
from tests.rewriter.forms.comparing import gap_after
from tests.rewriter.forms.sweeping import sweep

ROUNDING = 1e-5
"""Of the largest output: what new weights lose when they are rounded to float32."""


ALIGNED = 'mode = "linear", coordinate_transformation_mode = "align_corners"'


def layer(
    resize: str,
    conv: str,
    weight: Sequence[int],
    x: Sequence[int],
    scales: Sequence[float] = (2, 2),
) -> ir.Model:
    """A model of a Resize and a Conv from ``x`` to ``z``."""
    text = f"""<ir_version: 8, opset_import: ["" : 18]>
    g (float[{", ".join(map(str, x))}] x) => (float[] z)
    {{ u = Resize <{resize}> (x, , s) z = Conv <{conv}> (u, w, b) }}"""
    return parse(
        text,
        w=normal(*weight),
        b=normal(weight[0], seed=1),
        s=np.array([1, 1, *scales], np.float32),
    )


def gap(model: ir.Model, form: AssembleRows) -> float:
    """Difference in float64 after the rewrite, relative to the largest output."""
    found = gap_after(model, lambda root: propose(form, root, 18))
    assert found is not None
    return found


def check(model: ir.Model) -> None:
    """Whatever a form proposes is certified and equal."""
    found = [(form, propose(form, model.graph[-1], 18)) for form in FORMS]
    proposals = [(form, result) for form, result in found if isinstance(result, Proposal)]
    assume(proposals)
    for form, proposal in proposals:
        assert "exactly" in Prover({"": 18}, 0).certify(proposal)
        assert gap(model, form) <= ROUNDING, form.name


def numbers(least: int, most: int) -> st.SearchStrategy[list[int]]:
    """One for each of two axes."""
    return st.lists(st.integers(least, most), min_size=2, max_size=2)


@st.composite
def layers(draw: st.DrawFn) -> ir.Model:
    mode = draw(st.sampled_from(("nearest", "linear", "cubic")))
    coordinates = draw(st.sampled_from(("half_pixel", "align_corners", "asymmetric")))
    group = draw(st.sampled_from((1, 1, 2)))
    conv = (
        f"strides = {draw(numbers(1, 4))}, group = {group},"
        f" dilations = {draw(st.sampled_from(([1, 1], [1, 2], [3, 1], [24, 1])))},"
        f" pads = {draw(numbers(0, 6)) + draw(numbers(0, 30))}"
    )
    scale = st.sampled_from((1, 1.5, 2, 2, 3, 4, 0.5))
    sizes = [draw(st.one_of(st.integers(1, 9), st.integers(33, 40))), draw(st.integers(1, 9))]
    return layer(
        f'mode = "{mode}", coordinate_transformation_mode = "{coordinates}"',
        conv,
        (2 * group, 16, *draw(numbers(1, 7))),
        (draw(st.integers(1, 3)), 16 * group, *sizes),
        (draw(scale), draw(scale)),
    )


test_layers, test_many_layers = sweep(
    check,
    layers(),
    25,
    400,
    allow=(
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
    ),
)


LARGE = layer(ALIGNED, "pads = [1, 1, 1, 1]", (3, 16, 3, 3), (2, 16, 36, 5))
"""72 rows: six tiles of twelve."""

ROWS, BOTH = FORMS


def test_rows_of_a_large_map_are_assembled_in_tiles() -> None:
    plan = ROWS.find(LARGE.graph[-1], 18).plan
    assert plan.assembly[0].tile == 12
    assert plan.assembly[0].width == 8
    assert gap(LARGE, ROWS) <= ROUNDING


def test_one_column_is_assembled_in_tiles_too() -> None:
    model = layer(ALIGNED, "pads = [1, 0, 1, 0]", (3, 16, 3, 1), (2, 16, 36, 1), (2, 1))
    assert len(BOTH.find(model.graph[-1], 18).plan.assembly[0].starts) == 6
    assert gap(model, BOTH) <= ROUNDING


def test_many_rows_that_become_few_are_assembled_at_once() -> None:
    model = layer(ALIGNED, "group = 1", (3, 16, 1, 3), (1, 16, 33, 2), (0.5, 2))
    assert gap(model, BOTH) <= ROUNDING


def test_a_prime_number_of_rows_is_assembled_at_once() -> None:
    model = layer(ALIGNED, "group = 1", (3, 16, 2, 3), (1, 16, 37, 4), (2, 2))  # 73 rows
    assert BOTH.find(model.graph[-1], 18).plan.assembly[0].starts == (0,)
    assert gap(model, BOTH) <= ROUNDING


def test_the_bias_goes_into_the_convolution_where_a_tap_sees_full_pixels_everywhere() -> None:
    padded = layer(ALIGNED, "pads = [3, 0, 3, 0]", (3, 16, 3, 3), (1, 16, 5, 4))
    for model, operators in ((LARGE, False), (padded, True)):
        made = propose(BOTH, model.graph[-1], 18)
        assert isinstance(made, Proposal)
        assert ("Add" in [node.op_type for node in made.new_nodes]) == operators
        assert gap(model, BOTH) <= ROUNDING


def in_assembly(**how: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A mistake in one field of how the rows are assembled."""

    def mistaken(plan: Any) -> Any:
        rows, columns = plan.assembly
        rows = dataclasses.replace(rows, **{name: f(rows) for name, f in how.items()})
        return dataclasses.replace(plan, assembly=(rows, columns))

    return mistaken


def in_factors(**how: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A mistake in one factor of the rows."""

    def mistaken(rows: Any) -> Any:
        factors = rows.factorization
        return dataclasses.replace(factors, **{name: f(factors) for name, f in how.items()})

    return in_assembly(factorization=mistaken)


def _one_entry_wrong(factors: Any) -> AxisOperator:
    first, *others = factors.after.rows
    ((pixel, coefficient), *rest), *outputs = first[1:]
    wrong = ((pixel, coefficient + Fraction(1, 1000)), *rest)
    return AxisOperator(factors.after.inputs, ((first[0], wrong, *outputs), *others))


IN_PLANS: dict[str, Callable[[Any], Any]] = {
    "a wrong entry": in_factors(after=_one_entry_wrong),
    "taps in another order": in_factors(weights=lambda factors: factors.weights[::-1]),
    "tiles shifted": in_assembly(starts=lambda rows: (rows.starts[0], *rows.starts[:-1])),
    "tiles too narrow": in_assembly(width=lambda rows: rows.width - 1),
    "pads of columns": lambda plan: dataclasses.replace(
        plan, sliding=dataclasses.replace(plan.sliding, begins=(1, 0), ends=(1, 2))
    ),
}


@pytest.mark.parametrize("mistake", IN_PLANS.values(), ids=IN_PLANS)
def test_mistakes_in_a_plan_fail_the_certificate(mistake: Callable[[Any], Any]) -> None:
    class Mutant(AssembleRows):
        def plan_of(self, layer: LayerSite) -> Any:
            return mistake(super().plan_of(layer))

    proposal = propose(Mutant("mutant", 1), LARGE.graph[-1], 18)
    assert isinstance(proposal, Proposal)
    with pytest.raises(Disproved):
        Prover({"": 18}, 0).certify(proposal)


@pytest.mark.parametrize("form", FORMS, ids=[form.name for form in FORMS])
@pytest.mark.parametrize(
    ("holder", "name", "mistake"),
    [
        (assemble_rows._Plan, "bias", lambda right: np.roll(right, 1)),
        (Assembly, "rows", lambda right: right[1:] + right[:1]),
        (Assembly, "matrices", lambda right: right[:, ::-1]),
    ],
    ids=["bias of another tap", "rows shifted", "rows of A reversed"],
)
def test_mistakes_in_the_lowering_fail_the_comparison(
    form: AssembleRows, holder: Any, name: str, mistake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(holder, name)
    monkeypatch.setattr(holder, name, property(lambda self: mistake(right.fget(self))))
    assert gap(LARGE, form) > 100 * ROUNDING
