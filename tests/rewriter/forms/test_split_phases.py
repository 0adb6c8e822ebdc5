"""Layers split into phases: whatever is accepted is certified and equal, and mistakes are found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from advconv_onnx.optimizer.prove import Disproved, Prover
from advconv_onnx.rewriter.forms.split_phases import FORMS, SplitPhases
from advconv_onnx.rewriter.interleave import Interleave
from advconv_onnx.rewriter.proposal import Proposal, propose
from advconv_onnx.rewriter.rule import Site
from tests.parsing import normal, parse
from tests.rewriter.forms.comparing import gap_after

ROUNDING = 1e-5
"""Of the largest output: what new weights lose when they are rounded to float32."""

SHORT = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
LONG = settings(SHORT, max_examples=600)

NEAREST = (
    'u = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric",'
    ' nearest_mode = "floor"> (x, , s)'
)


def layer(
    nodes: str, weight: Sequence[int], bias: int, x: Sequence[int], scales: Sequence[int] = ()
) -> ir.Model:
    """A model from ``x`` to ``z`` with weight ``w``, bias ``b`` and scales ``s``."""
    sizes = ", ".join(map(str, x))
    head = f'<ir_version: 8, opset_import: ["" : 18]> g (float[{sizes}] x) => (float[] z)'
    return parse(
        f"{head} {{ {nodes} }}",
        w=normal(*weight),
        b=normal(bias, seed=1),
        s=np.array([1, 1, *scales], np.float32),
    )


def gap(model: ir.Model, form: SplitPhases) -> float:
    """Difference in float64 after the rewrite, relative to the largest output; 0 if none runs."""
    return gap_after(model, lambda root: propose(form, root, 18)) or 0.0


def check(model: ir.Model) -> None:
    """Whatever a form proposes is certified and equal; one proposes something for any layer."""
    found = [(form, propose(form, model.graph[-1], 18)) for form in FORMS]
    assume(not any(result is None or "no output" in str(result) for _, result in found))
    proposals = [(form, result) for form, result in found if isinstance(result, Proposal)]
    assert proposals
    for form, proposal in proposals:
        assert "exactly" in Prover({"": 18}, 0).certify(proposal)
        assert gap(model, form) <= ROUNDING, form.name


def numbers(least: int, most: int) -> st.SearchStrategy[list[int]]:
    """One for each of two axes."""
    return st.lists(st.integers(least, most), min_size=2, max_size=2)


@st.composite
def transposed(draw: st.DrawFn) -> ir.Model:
    kernel, strides, dilations = draw(numbers(1, 7)), draw(numbers(1, 4)), draw(numbers(1, 3))
    extra = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(strides, dilations, strict=True)]
    group = draw(st.sampled_from((1, 1, 2, 4)))
    conv = (
        f"ConvTranspose <strides = {strides}, dilations = {dilations}, group = {group},"
        f" pads = {draw(numbers(0, 4)) + draw(numbers(0, 4))}, output_padding = {extra}> (x, w, b)"
    )
    nodes = draw(st.sampled_from((f"z = {conv}", f"y = {conv} z = LeakyRelu (y)")))
    x = draw(st.integers(1, 3)), 4, *draw(numbers(1, 9))
    return layer(nodes, (4, 3, *kernel), 3 * group, x)


@st.composite
def resized(draw: st.DrawFn) -> ir.Model:
    dilations = draw(st.sampled_from(([1, 1], [1, 2], [3, 24], [5, 1])))
    group = draw(st.sampled_from((1, 1, 2, 4)))
    conv = (
        f"Conv <strides = {draw(numbers(1, 4))}, dilations = {dilations}, group = {group},"
        f" pads = {draw(numbers(0, 6)) + draw(numbers(0, 30))}> (u, w, b)"
    )
    x = draw(st.integers(1, 3)), 4, *draw(numbers(1, 9))
    weight = 2 * group, 4 // group, *draw(numbers(1, 7))
    return layer(f"{NEAREST} z = {conv}", weight, 2 * group, x, draw(numbers(1, 4)))


@SHORT
@given(transposed())
def test_transposed_convolutions(model: ir.Model) -> None:
    check(model)


@SHORT
@given(resized())
def test_convolutions_of_enlarged_images(model: ir.Model) -> None:
    check(model)


@pytest.mark.long
@LONG
@given(st.one_of(transposed(), resized()))
def test_many_layers(model: ir.Model) -> None:
    check(model)


Axis = Any
"""What the form's plan knows of an axis."""


def changed(**how: Callable[[Axis], Any]) -> Callable[[Axis], Axis]:
    """A mistake in one field of an axis."""
    return lambda axis: dataclasses.replace(axis, **{n: f(axis) for n, f in how.items()})


def phases(**how: Callable[[Any], Any]) -> Callable[[Axis], Axis]:
    """A mistake in one field of the last phase of an axis."""

    def mistaken(axis: Axis) -> Any:
        *others, last = axis.phases
        new = dataclasses.replace(last, **{name: f(last) for name, f in how.items()})
        return (*others, new)

    return changed(phases=mistaken)


def first_only(taps: Any) -> Any:
    """Taps on one pixel of which the last is forgotten."""
    return tuple((*row[:-1], 0 * row[-1]) for row in taps)


IN_PLANS = {
    "phases swapped": changed(phases=lambda axis: axis.phases[::-1]),
    "not cut": changed(cuts=lambda axis: (0, 0)),
    "cut at the other end": changed(cuts=lambda axis: axis.cuts[::-1]),
    "shifted": phases(pads=lambda phase: (phase.pads[0] + 1, phase.pads[1] - 1)),
    "taps reversed": phases(taps=lambda phase: phase.taps[::-1]),
    "a tap not added": phases(taps=lambda phase: first_only(phase.taps)),
    "dilated": phases(
        dilation=lambda phase: phase.dilation + 1,
        pads=lambda phase: (phase.pads[0], phase.pads[1] + len(phase.taps) - 1),
    ),
}


def mutant(form: SplitPhases, mistake: Callable[[Axis], Axis]) -> SplitPhases:
    """The form, with a mistake in the first axis of its plans."""

    class Mutant(SplitPhases):
        def find(self, root: ir.Node, opset: int) -> Site[Any]:
            site = super().find(root, opset)
            first, *others = site.plan.axes
            plan = dataclasses.replace(site.plan, axes=(mistake(first), *others))
            return dataclasses.replace(site, plan=plan)

    return Mutant(form._spelling, stacked=form._stacked)


CUT = layer(
    f"{NEAREST} z = Conv <pads = [3, 1, 2, 1], dilations = [3, 1]> (u, w, b)",
    (3, 4, 3, 3), 3, (2, 4, 6, 5), (2, 2),
)  # fmt: skip
"""Seven rows of the enlarged image: the phases differ in length, dilation and taps."""


@pytest.mark.parametrize("mistake", IN_PLANS.values(), ids=IN_PLANS)
@pytest.mark.parametrize("form", FORMS, ids=[form.name for form in FORMS])
def test_mistakes_in_a_plan_fail_the_certificate(
    form: SplitPhases, mistake: Callable[[Axis], Axis]
) -> None:
    proposal = propose(mutant(form, mistake), CUT.graph[-1], 18)
    assert isinstance(proposal, Proposal)
    with pytest.raises(Disproved):
        Prover({"": 18}, 0).certify(proposal)


def _first_biased(parts: Sequence[ir.Value]) -> Sequence[ir.Value]:
    for part in parts[1:]:
        part.producer().replace_input_with(2, None)  # type: ignore[union-attr]
    return parts


IN_THE_INTERLEAVE: dict[str, Callable[..., Any]] = {
    "rows and columns swapped": lambda parts: [parts[i] for i in (0, 2, 1, 3)],
    "bias in the first phase only": _first_biased,
}


@pytest.mark.parametrize("mistake", IN_THE_INTERLEAVE.values(), ids=IN_THE_INTERLEAVE)
@pytest.mark.parametrize("form", FORMS[:3], ids=[form.name for form in FORMS[:3]])
def test_mistakes_in_the_interleave_fail_the_comparison(
    form: SplitPhases, mistake: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Interleave.spelled
    monkeypatch.setattr(
        Interleave, "spelled", lambda self, how, op, parts: right(self, how, op, mistake(parts))
    )
    assert gap(CUT, form) > 100 * ROUNDING
