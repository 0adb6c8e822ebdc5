"""Toom-Cook as matrix products: whatever is accepted is certified and equal, mistakes are found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any
from unittest import mock

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from advconv_onnx.optimizer.prove import Disproved, Prover
from advconv_onnx.rewriter.forms import winograd_matmul
from advconv_onnx.rewriter.forms.winograd_matmul import FORMS, Repeated, WinogradMatmul
from advconv_onnx.rewriter.proposal import Proposal, Refusal, propose
from advconv_onnx.rewriter.rule import Site
from tests.parsing import normal, parse
from tests.rewriter.forms.comparing import gap_after

ROUNDING = 3e-5
"""Of the largest output: what U, A and B lose in float32, tiles of 4 with up to 7 taps."""

SHORT = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
LONG = settings(SHORT, max_examples=400)


def layer(
    nodes: str, weight: Sequence[int], bias: int, x: Sequence[int], **constants: Any
) -> ir.Model:
    """A model from ``x`` to ``z`` with weight ``w`` and bias ``b``."""
    sizes = ", ".join(map(str, x))
    head = f'<ir_version: 8, opset_import: ["" : 18]> g (float[{sizes}] x) => (float[] z)'
    text = f"{head} {{ {nodes} }}"
    return parse(text, w=normal(*weight), b=normal(bias, seed=1), **constants)


def proposed(form: WinogradMatmul, root: ir.Node) -> Any:
    """What the form makes of the layer, however few its channels and however much it multiplies."""
    with mock.patch.multiple(winograd_matmul, _check_costs=mock.DEFAULT, _LEAST_CHANNELS=1):
        return propose(form, root, 18)


def gap(model: ir.Model, form: WinogradMatmul) -> float:
    """Difference in float64 after the rewrite, relative to the largest output; 0 if none runs."""
    return gap_after(model, lambda root: proposed(form, root)) or 0.0


def check(model: ir.Model) -> None:
    """Every form makes a layer that is certified and equal."""
    for form in FORMS:
        result = proposed(form, model.graph[-1])
        if isinstance(result, Refusal):
            assert result.reason == "the layer has no output"
        if isinstance(result, Proposal):
            assert "exactly" in Prover({"": 18}, 0).certify(result)
            assert gap(model, form) <= ROUNDING, form.name


def numbers(least: int, most: int) -> st.SearchStrategy[list[int]]:
    """One for each of two axes."""
    return st.lists(st.integers(least, most), min_size=2, max_size=2)


GROUPS = st.sampled_from((1, 1, 2, 3))


@st.composite
def convolution(draw: st.DrawFn, x: str = "x") -> tuple[str, tuple[int, ...], int]:
    """A Conv's text, the shape of its weight, and the number of channels it reads."""
    group = draw(GROUPS)
    pads = draw(numbers(0, 4)) + draw(numbers(0, 4))
    conv = (
        f"z = Conv <strides = {draw(numbers(1, 4))}, group = {group}, pads = {pads},"
        f" dilations = {draw(st.sampled_from(([1, 1], [2, 1], [3, 24], [5, 2])))}> ({x}, w, b)"
    )
    return conv, (2 * group, 2, *draw(numbers(1, 7))), 2 * group


@st.composite
def plain(draw: st.DrawFn) -> ir.Model:
    conv, weight, channels = draw(convolution())
    kernel_fits = draw(numbers(1, 24))
    return layer(conv, weight, weight[0], (draw(st.integers(1, 3)), channels, *kernel_fits))


@st.composite
def resized(draw: st.DrawFn) -> ir.Model:
    conv, weight, channels = draw(convolution("u"))
    mode = draw(st.sampled_from(("nearest", "linear", "cubic")))
    where = draw(st.sampled_from(("asymmetric", "half_pixel", "align_corners")))
    resize = (
        f'u = Resize <mode = "{mode}", coordinate_transformation_mode = "{where}",'
        ' nearest_mode = "floor"> (x, , s)'
    )
    x = draw(st.integers(1, 3)), channels, *draw(numbers(1, 9))
    scales = np.array([1, 1, *draw(numbers(1, 4))], np.float32)
    return layer(f"{resize} {conv}", weight, weight[0], x, s=scales)


@st.composite
def padded(draw: st.DrawFn) -> ir.Model:
    conv, weight, channels = draw(convolution("u"))
    mode = draw(st.sampled_from(("edge", "reflect", "constant")))
    pads = [0, 0, *draw(numbers(0, 3)), 0, 0, *draw(numbers(0, 3))]
    x = draw(st.integers(1, 3)), channels, *draw(numbers(4, 12))
    return layer(f'u = Pad <mode = "{mode}"> (x, p) {conv}', weight, weight[0], x, p=np.array(pads))


@st.composite
def transposed(draw: st.DrawFn) -> ir.Model:
    strides, dilations, group = draw(numbers(1, 4)), draw(numbers(1, 3)), draw(GROUPS)
    extra = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(strides, dilations, strict=True)]
    conv = (
        f"y = ConvTranspose <strides = {strides}, dilations = {dilations}, group = {group},"
        f" pads = {draw(numbers(0, 2)) + draw(numbers(0, 2))}, output_padding = {extra}> (x, w, b)"
    )
    x = draw(st.integers(1, 3)), 2 * group, *draw(numbers(2, 9))
    weight = 2 * group, 3, *draw(numbers(1, 7))
    return layer(f"{conv} z = LeakyRelu (y)", weight, 3 * group, x)


ANY = st.one_of(plain(), resized(), padded(), transposed())


@pytest.mark.parametrize("models", [plain(), resized(), padded(), transposed()], ids=str)
def test_layers(models: st.SearchStrategy[ir.Model]) -> None:
    SHORT(given(models)(check))()


@pytest.mark.long
@LONG
@given(ANY)
def test_many_layers(model: ir.Model) -> None:
    check(model)


Form = Any
"""A factorization."""


def changed_entry(operator: Any) -> Any:
    """An axis operator with its last entry doubled."""
    rows = [list(outputs) for outputs in operator.rows]
    k, o = next(
        (k, o) for k in reversed(range(len(rows))) for o in range(len(rows[k])) if rows[k][o]
    )
    (i, coefficient), *others = rows[k][o]
    rows[k][o] = ((i, 2 * coefficient), *others)
    return dataclasses.replace(operator, rows=tuple(map(tuple, rows)))


def changed_weights(form: Form) -> Form:
    *others, last = form.weights
    return (*others, tuple(value + Fraction(1, 2) for value in last))


def shifted(form: Form) -> Any:
    rows = tuple((outputs[1:] + outputs[:1]) for outputs in form.before.rows)
    return dataclasses.replace(form.before, rows=rows)


MISTAKES: dict[str, Callable[[Form], Form]] = {
    "G": lambda form: dataclasses.replace(form, weights=changed_weights(form)),
    "B": lambda form: dataclasses.replace(form, before=changed_entry(form.before)),
    "A": lambda form: dataclasses.replace(form, after=changed_entry(form.after)),
    "tiles shifted": lambda form: dataclasses.replace(form, before=shifted(form)),
    "products swapped": lambda form: dataclasses.replace(form, weights=form.weights[::-1]),
}


def mutant(form: WinogradMatmul, mistake: Callable[[Form], Form]) -> WinogradMatmul:
    """The form, with a mistake in the first axis of its plans."""

    class Mutant(WinogradMatmul):
        def find(self, root: ir.Node, opset: int) -> Site[Any]:
            site = super().find(root, opset)
            first, *others = site.plan.axes
            wrong = mistake(first.form)
            axis = dataclasses.replace(first, form=wrong, repeated=Repeated.of(wrong.after))
            plan = dataclasses.replace(site.plan, axes=(axis, *others))
            return dataclasses.replace(site, plan=plan)

    return Mutant(form._tile, form.small is None)


SAME = layer("z = Conv <pads = [1, 1, 1, 1]> (x, w, b)", (3, 4, 3, 3), 3, (2, 4, 10, 9))
SPREAD = layer("z = Conv <dilations = [2, 2]> (x, w, b)", (3, 4, 3, 3), 3, (2, 4, 13, 11))


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
@pytest.mark.parametrize("model", [SAME, SPREAD], ids=["tiles alike", "tiles spread"])
def test_mistakes_in_a_plan_fail_the_certificate(
    model: ir.Model, mistake: Callable[[Form], Form]
) -> None:
    proposal = proposed(mutant(FORMS[-1], mistake), model.graph[-1])
    assert isinstance(proposal, Proposal)
    with pytest.raises(Disproved):
        Prover({"": 18}, 0).certify(proposal)


def test_outputs_behind_the_last_tile_are_made_too() -> None:
    conv = "ConvTranspose <strides = [2, 1], pads = [1, 1, 0, 2], output_padding = [1, 0]>"
    check(layer(f"z = {conv} (x, w, b)", (2, 3, 2, 1), 3, (1, 2, 3, 9)))


def test_a_wrong_matrix_of_a_tile_fails_the_certificate() -> None:
    class Mutant(WinogradMatmul):
        def find(self, root: ir.Node, opset: int) -> Site[Any]:
            site = super().find(root, opset)
            first, *others = site.plan.axes
            tile = first.repeated.tile[::-1]
            wrong = dataclasses.replace(first.repeated, tile=tile)
            axes = dataclasses.replace(first, repeated=wrong), *others
            return dataclasses.replace(site, plan=dataclasses.replace(site.plan, axes=axes))

    proposal = proposed(Mutant(4), SAME.graph[-1])
    with pytest.raises(Disproved):
        Prover({"": 18}, 0).certify(proposal)


def _reversed_taps(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda plan: right(plan)[::-1]


def _other_order(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, tiles_first: right(*args, tiles_first=not tiles_first)


IN_THE_LOWERING = {"_taps_first": _reversed_taps, "_image": _other_order}


@pytest.mark.parametrize("name", IN_THE_LOWERING)
@pytest.mark.parametrize("form", FORMS, ids=[form.name for form in FORMS])
def test_mistakes_in_the_lowering_fail_the_comparison(
    form: WinogradMatmul, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(winograd_matmul, name)
    monkeypatch.setattr(winograd_matmul, name, IN_THE_LOWERING[name](right))
    assert gap(SAME, form) > 100 * ROUNDING


def test_the_small_variant_stores_no_more_than_the_weight() -> None:
    small, large = (proposed(WinogradMatmul(4, small), SAME.graph[-1]) for small in (True, False))
    weights = [
        [value.const_value.size for value in made.new_initializers if value.name == "weight"]
        for made in (small, large)
    ]
    assert weights == [[3 * 4 * 3 * 3], [3 * 4 * 6 * 5]]
