"""Toom-Cook along rows: whatever is accepted is certified and equal, and mistakes are found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from advconv_onnx.algebra.certificate import NotEqual
from advconv_onnx.optimizer.prove import Disproved, Prover
from advconv_onnx.rewriter.forms.winograd_rows import EXAMPLES, FORMS, WinogradRows
from advconv_onnx.rewriter.proposal import Proposal, propose
from advconv_onnx.rewriter.rule import Site
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.probe import difference
from advconv_onnx.runtime.profile import profile
from advconv_onnx.runtime.session import open_session
from tests.parsing import normal, parse

ROUNDING = 1e-5
"""Of the largest output in float64: what new weights lose when they are rounded to float32."""

SHORT = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
LONG = settings(SHORT, max_examples=800)


def layer(conv: str, weight: tuple[int, ...], x: tuple[int | str, ...]) -> ir.Model:
    """A model with a convolution of ``x`` that has weight ``w`` and bias ``b``."""
    head = f'<ir_version: 8, opset_import: ["" : 18]> g (float[{", ".join(map(str, x))}] x)'
    return parse(
        f"{head} => (float[] z) {{ z = Conv <{conv}> (x, w, b) }}",
        w=normal(*weight),
        b=normal(weight[0], seed=1),
    )


def rewritten(model: ir.Model, form: WinogradRows) -> ir.Model:
    """The model after the rewrite."""
    changed = model.clone()
    made = propose(form, changed.graph[-1], 18)
    assert isinstance(made, Proposal)
    made.commit(set())
    return changed


def gap(model: ir.Model, form: WinogradRows, *shape: int) -> float:
    """Difference in float64 after the rewrite, relative to the largest output."""
    compared = difference(model, rewritten(model, form), {"x": np.float64(normal(*shape, seed=2))})
    assert compared is not None
    return compared[0] / max(compared[1], 1.0)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[ir.Model, tuple[int, ...]]:
    """Any convolution, and a shape that its input may have."""
    kernel = draw(st.integers(2, 7)), draw(st.integers(1, 7))
    stride = draw(st.sampled_from((1, 1, 1, 2, 3, 4))), draw(st.integers(1, 4))
    dilation = draw(st.sampled_from((1, 1, 2, 3, 24))), draw(st.sampled_from((1, 2, 24)))
    # Pads near half the kernel leave an output on small maps too.
    pads = [
        max(0, draw(st.integers(-2, 2)) + d * (k - 1) // 2)
        for _ in range(2)
        for k, d in zip(kernel, dilation, strict=True)
    ]
    group = draw(st.sampled_from((1, 1, 2)))
    channels, rows = 4 * group, draw(st.integers(1, 30))
    conv = f"strides = {list(stride)}, dilations = {list(dilation)}, pads = {pads}, group = {group}"
    weight = channels, 4, *kernel
    if draw(st.booleans()):  # known, and about as wide as where another spelling begins
        shape = 1, channels, rows, draw(st.integers(46, 52))
        return layer(conv, weight, shape), shape
    shape = draw(st.integers(1, 3)), channels, rows, draw(st.integers(1, 9))
    return layer(conv, weight, ("N", channels, rows, "W")), shape


def check(model: ir.Model, shape: tuple[int, ...]) -> None:
    """Whatever a form proposes is certified and equal."""
    found = [(form, propose(form, model.graph[-1], 18)) for form in FORMS]
    accepted = [(form, made) for form, made in found if isinstance(made, Proposal)]
    given_x = {"x": np.float64(normal(*shape, seed=2))}
    assume(accepted and difference(model, model, given_x) is not None)
    for form, proposal in accepted:
        assert "exactly" in Prover({"": 18}, 0).certify(proposal)
        assert gap(model, form, *shape) <= ROUNDING, form.name


@SHORT
@given(convolutions())
def test_convolutions(drawn: tuple[ir.Model, tuple[int, ...]]) -> None:
    check(*drawn)


@pytest.mark.long
@LONG
@given(convolutions())
def test_many_convolutions(drawn: tuple[ir.Model, tuple[int, ...]]) -> None:
    check(*drawn)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize("kernel", [2, 3, 5])
def test_float32_loses_little(form: WinogradRows, kernel: int) -> None:
    pad = kernel // 2
    model = layer(f"pads = [{pad}, 1, {pad}, 1]", (32, 32, kernel, 3), (1, 32, 50, 20))
    if not isinstance(propose(form, model.graph[-1], 18), Proposal):
        pytest.skip(f"{form.name} refuses {kernel} rows: that tile loses too much in float32")
    x = np.maximum(normal(1, 32, 50, 20, seed=2), 0)
    want, found = (
        run_session(open_session(m, threads=1), {"x": x})["z"]
        for m in (model, rewritten(model, form))
    )
    assert np.abs(found - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize(
    ("batch", "width", "fused"), [(1, 48, True), (1, 47, False), (2, 48, False)]
)
def test_rows_are_not_moved_on_wide_maps(batch: int, width: int, fused: bool) -> None:
    shape = batch, 32, 16, width
    model = rewritten(layer("pads = [1, 1, 1, 1]", (32, 32, 3, 3), shape), FORMS[1])
    executed = {row.op_type for row in profile(model, {"x": normal(*shape)}, runs=1)}
    assert ("FusedMatMul" in executed, "Transpose" in executed) == (fused, not fused)


Product = Any
"""What the form's plan knows of a product of a tile."""


def field(name: str, wrong: Callable[[Any], Any]) -> Callable[[Product], Product]:
    """A mistake in one field of a product."""
    return lambda product: dataclasses.replace(product, **{name: wrong(getattr(product, name))})


def entry(index: int) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """A mistake in one entry of a row."""
    return lambda row: tuple(v + (i == index % len(row)) for i, v in enumerate(row))


MISTAKES = {
    "first_of_b": field("reads", entry(0)),
    "last_of_b": field("reads", entry(-1)),
    "first_of_g": field("taps", entry(0)),
    "last_of_g": field("taps", entry(-1)),
    "first_of_a": field("gives", entry(0)),
    "last_of_a": field("gives", entry(-1)),
    "negative": field("gives", lambda row: tuple(-a for a in row)),
    "kernel_upside_down": field("reads", lambda row: row[::-1]),
    "one_row_too_early": field("pads", lambda pads: (pads[0] + 1, max(0, pads[1] - 1))),
    "stride": field("stride", lambda stride: stride - 1),
    "dilation": field("dilation", lambda dilation: dilation + 1),
    "bias": field("bias", lambda bias: bias + 1),
}

LAYERS = {
    "plain": ("pads = [1, 1, 1, 1]", (4, 4, 3, 3), (2, 4, 10, 6)),
    "dilated": ("pads = [2, 1, 2, 1], dilations = [2, 1]", (4, 4, 3, 3), (1, 4, 16, 6)),
    "strided": ("pads = [2, 1, 2, 1], strides = [2, 1]", (4, 4, 5, 3), (1, 4, 16, 6)),
}


class Mistaken(WinogradRows):
    """The form with a mistake in one product of its plan."""

    def __init__(
        self, form: WinogradRows, mistake: Callable[[Product], Product], index: int
    ) -> None:
        super().__init__(form._tile)
        self._mistake, self._index = mistake, index

    def find(self, root: ir.Node, opset: int) -> Site[Any]:
        site = super().find(root, opset)
        *others, stack = site.plan.stacks
        wrong = list(stack)
        wrong[self._index] = self._mistake(wrong[self._index])
        plan = dataclasses.replace(site.plan, stacks=(*others, tuple(wrong)))
        return dataclasses.replace(site, plan=plan)


@pytest.mark.parametrize("index", [0, 1, -1])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_certificate_finds_mistakes_of_a_product(mistake: str, name: str, index: int) -> None:
    model = layer(*LAYERS[name])
    form = Mistaken(WinogradRows(4), MISTAKES[mistake], index)
    root = model.graph[-1]
    right, wrong = WinogradRows(4).find(root, 18).plan, form.find(root, 18).plan
    if right.factorization() == wrong.factorization() and mistake != "bias":
        pytest.skip("on this product it is none: its kernel is symmetric, or has but one row")
    proposal = propose(form, root, 18)
    assert isinstance(proposal, Proposal)
    with pytest.raises(Disproved):
        Prover({"": 18}, 0).certify(proposal)


@pytest.mark.parametrize(
    ("number", "wrong"),
    [
        ("tiles", lambda plan: plan.tiles + 1),
        ("outputs", lambda plan: plan.outputs - 1),
        ("stacks", lambda plan: plan.stacks + plan.stacks[:1]),
        (
            "sliding",
            lambda plan: dataclasses.replace(plan.sliding, begins=(1, 2), ends=(1, 0)),
        ),
        ("sliding", lambda plan: dataclasses.replace(plan.sliding, strides=(1, 2))),
    ],
    ids=["tiles", "outputs", "product_twice", "columns_shifted", "columns_strided"],
)
def test_certificate_finds_mistakes_of_the_plan(number: str, wrong: Callable[[Any], Any]) -> None:
    class Wrong(WinogradRows):
        def find(self, root: ir.Node, opset: int) -> Site[Any]:
            site = super().find(root, opset)
            plan = dataclasses.replace(site.plan, **{number: wrong(site.plan)})
            return dataclasses.replace(site, plan=plan)

    model = layer(*LAYERS["plain"])
    form, root = Wrong(4), model.graph[-1]
    with pytest.raises(NotEqual):
        list(form.certify(form.find(root, 18).plan))


def _order(nodes: dict[str, ir.Node]) -> None:
    nodes["Transpose"].attributes["perm"] = ir.AttrInt64s("perm", [0, 2, 1, 3, 4])


def _products_swapped(nodes: dict[str, ir.Node]) -> None:
    first, second, *_ = nodes["Concat"].inputs
    nodes["Concat"].replace_input_with(0, second)
    nodes["Concat"].replace_input_with(1, first)


def _without_bias(nodes: dict[str, ir.Node]) -> None:
    nodes["Conv"].replace_input_with(2, None)


def _cut_at_the_other_end(nodes: dict[str, ir.Node]) -> None:
    for index, number in ((1, 2), (2, 12)):
        value = ir.tensor(np.array([number], np.int64))
        nodes["Slice"].inputs[index].const_value = value  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "mistake", [_order, _products_swapped, _without_bias, _cut_at_the_other_end]
)
def test_comparison_finds_mistakes_of_the_nodes(
    mistake: Callable[[dict[str, ir.Node]], None],
) -> None:
    model = layer(*LAYERS["plain"])
    x = {"x": np.float64(normal(*LAYERS["plain"][2], seed=2))}
    changed = rewritten(model, WinogradRows(4))
    compared = difference(model, changed, x)
    assert compared is not None
    assert compared[0] <= ROUNDING * compared[1]
    mistake({node.op_type: node for node in changed.graph})  # the last of each type
    compared = difference(model, changed, x)
    assert compared is not None
    assert compared[0] > 100 * ROUNDING * compared[1]


def test_the_small_variant_stores_no_more_than_the_weight() -> None:
    model = parse(EXAMPLES[0])
    for small, size in ((True, 4 * 4 * 3 * 3), (False, 4 * 4 * 6 * 3)):
        made = propose(WinogradRows(4, small), model.graph[-1], 18)
        assert isinstance(made, Proposal)
        [weight] = [v.const_value for v in made.new_initializers if v.name == "weight"]
        assert weight is not None
        assert weight.size == size
