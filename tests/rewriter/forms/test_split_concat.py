"""Concats split off a convolution: what is accepted is certified and equal, mistakes are found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, assume
from hypothesis import strategies as st

from advconv_onnx.optimizer.prove import Disproved, Prover
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.forms.assemble_rows import FORMS as ASSEMBLIES
from advconv_onnx.rewriter.forms.compose_transposed import FORMS as COMPOSED
from advconv_onnx.rewriter.forms.pool_transposed import PoolTransposed
from advconv_onnx.rewriter.forms.split_concat import FORMS, SplitConcat
from advconv_onnx.rewriter.proposal import Proposal, names_in, propose
from advconv_onnx.rewriter.rule import Site
from tests.parsing import normal, parse
from tests.rewriter.forms.comparing import gap_after
from tests.rewriter.forms.sweeping import sweep

ROUNDING = 1e-12
"""Of the largest output: sums in another order, of the same weights."""


PLAIN, POOLED = FORMS

OPERANDS = {
    "a": (3, ""),
    "b": (2, ""),
    "u": (4, 'u = Resize <mode = "nearest"> (p, , s)'),
    "v": (4, 'v = Resize <mode = "linear"> (p, , s)'),
    "w": (4, 'w0 = Resize <mode = "nearest"> (p, , h) w = Pad (w0, q)'),
    "t": (4, "t = ConvTranspose <strides = [2, 2]> (p, o)"),
    "d": (5, "d = Concat <axis = 1> (a, b)"),
    "e": (6, 'e0 = Resize <mode = "nearest"> (p, , s) e = Concat <axis = -3> (b, e0)'),
}
"""By name: its channels, and the nodes that make it."""


def network(
    operands: Sequence[str], conv: str = "pads = [1, 1, 1, 1]", kernel: Any = (3, 3)
) -> Any:
    """A Conv of a Concat of operands of 6 x 4 pixels."""
    nodes = " ".join(dict.fromkeys(OPERANDS[name][1] for name in operands))
    channels = sum(OPERANDS[name][0] for name in operands)
    return parse(
        f"""<ir_version: 8, opset_import: ["" : 18]>
        g (float[2, 3, 6, 4] a, float[2, 2, 6, 4] b, float[2, 4, 3, 2] p) => (float[] z)
        <float[4] s = {{1, 1, 2, 2}}, float[4] h = {{1, 1, 2, 1}},
         int64[8] q = {{0, 0, 0, 1, 0, 0, 0, 1}}>
        {{ {nodes} c = Concat <axis = 1> ({", ".join(operands)}) z = Conv <{conv}> (c, k, m) }}""",
        k=normal(3, channels, *kernel),
        m=normal(3, seed=1),
        o=normal(4, 4, 2, 2, seed=2),
    )


def rewritten(model: ir.Model, form: SplitConcat) -> ir.Model:
    changed = model.clone()
    made = propose(form, changed.graph[-1], 18)
    assert isinstance(made, Proposal)
    made.commit(names_in(changed))
    return changed


def gap(model: ir.Model, form: SplitConcat) -> float:
    """Difference in float64 after the rewrite, relative to the largest output; 0 if none runs."""
    return gap_after(model, lambda root: propose(form, root, 18)) or 0.0


def check(model: ir.Model) -> None:
    """Whatever a form proposes is certified and equal; one proposes something for any network."""
    found = [(form, propose(form, model.graph[-1], 18)) for form in FORMS]
    assert isinstance(found[0][1], Proposal)
    for form, proposal in found:
        if isinstance(proposal, Proposal):
            assert "exactly" in Prover({"": 18}, 0).certify(proposal)
            assert gap(model, form) <= ROUNDING, form.name


def numbers(least: int, most: int, count: int = 2) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(least, most), min_size=count, max_size=count)


@st.composite
def networks(draw: st.DrawFn) -> ir.Model:
    operands = draw(st.lists(st.sampled_from(sorted(OPERANDS)), min_size=2, max_size=5))
    kernel, dilations = draw(numbers(1, 7)), draw(numbers(1, 3))
    pads = draw(numbers(0, 6, 4))
    spans = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
    assume(6 + pads[0] + pads[2] > spans[0] and 4 + pads[1] + pads[3] > spans[1])
    conv = f"strides = {draw(numbers(1, 4))}, dilations = {dilations}, pads = {pads}"
    return network(operands, conv, kernel)


test_networks, test_many_networks = sweep(check, networks(), 25, 600, allow=(HealthCheck.too_slow,))


@pytest.mark.parametrize("form", FORMS, ids=[form.name for form in FORMS])
@pytest.mark.parametrize("enlarged", ["u", "t"])
def test_the_enlarged_part_is_a_site_of_its_own(form: SplitConcat, enlarged: str) -> None:
    """Made of new nodes only, so that a form of it may follow."""
    model = network(("a", enlarged))
    old = {node.name for node in model.graph}
    changed = rewritten(model, form)
    sites = [
        result
        for node in changed.graph
        for other in (*ASSEMBLIES, *COMPOSED, PoolTransposed())
        if isinstance(result := propose(other, node, 18), Proposal)
    ]
    assert sites
    assert not any(old.intersection(site.names) for site in sites)


def test_the_resize_stays_only_where_it_is_read() -> None:
    operators = [node.op_type for node in rewritten(network(("e", "a", "u")), PLAIN).graph]
    assert "Concat" not in operators
    assert operators.count("Resize") == 2
    assert operators.count("Conv") == 4


def test_what_others_read_too_is_not_made_anew() -> None:
    model = network(("a", "u"))
    model.graph.outputs.append(model.graph[0].outputs[0])
    assert [node.op_type for node in rewritten(model, PLAIN).graph].count("Resize") == 1
    assert propose(POOLED, model.graph[-1], 18) is None


def _shifted(operands: Sequence[Any]) -> list[Any]:
    first, second, *others = operands
    moved = range(second.channels.start - 1, second.channels.stop - 1)
    return [first, dataclasses.replace(second, channels=moved), *others]


def _swapped(operands: Sequence[Any]) -> list[Any]:
    """Operands of four channels each that read each other's weights."""
    (first, second), others = operands[-2:], operands[:-2]
    replace = dataclasses.replace
    return [
        *others,
        replace(first, channels=second.channels),
        replace(second, channels=first.channels),
    ]


IN_PLANS: dict[str, Callable[[Sequence[Any]], list[Any]]] = {
    "channels shifted": _shifted,
    "an operand forgotten": lambda operands: list(operands[:-1]),
    "an operand twice": lambda operands: [*operands, operands[0]],
}


def mutant(mistake: Callable[[Sequence[Any]], list[Any]]) -> SplitConcat:
    class Mutant(SplitConcat):
        def find(self, root: ir.Node, opset: int) -> Site[Any]:
            site = super().find(root, opset)
            plan = dataclasses.replace(site.plan, operands=tuple(mistake(site.plan.operands)))
            return dataclasses.replace(site, plan=plan)

    return Mutant("mutant")


@pytest.mark.parametrize("mistake", IN_PLANS.values(), ids=IN_PLANS)
def test_mistakes_in_the_cut_fail_the_certificate(
    mistake: Callable[[Sequence[Any]], list[Any]],
) -> None:
    proposal = propose(mutant(mistake), network(("a", "u", "v")).graph[-1], 18)
    assert isinstance(proposal, Proposal)
    with pytest.raises(Disproved):
        Prover({"": 18}, 0).certify(proposal)


def test_operands_swapped_fail_the_comparison() -> None:
    assert gap(network(("a", "u", "v")), mutant(_swapped)) > 1e6 * ROUNDING


def test_the_bias_in_every_part_fails_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Convolution.rebuild

    def biased(self: Convolution, op: Builder, x: ir.Value, weight: Any, bias: Any) -> ir.Value:
        return right(self, op, x, weight, self.bias)

    monkeypatch.setattr(Convolution, "rebuild", biased)
    assert gap(network(("a", "u")), PLAIN) > 1e6 * ROUNDING
