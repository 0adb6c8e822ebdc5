"""Overlapped pieces: whatever is accepted is certified and equal, and mistakes are found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from advconv_onnx.optimizer.prove import Disproved, Prover
from advconv_onnx.rewriter.forms import overlap_add
from advconv_onnx.rewriter.forms.overlap_add import OverlapAdd
from advconv_onnx.rewriter.proposal import Proposal, propose
from advconv_onnx.rewriter.rule import Site
from advconv_onnx.runtime.probe import difference
from tests.parsing import normal, parse

FORM = OverlapAdd()
SHORT = settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


def layer(
    taps: int, stride: int, pads: tuple[int, int], extra: int, channels: int, x: str
) -> ir.Model:
    """A ConvTranspose of three input channels."""
    conv = f"ConvTranspose <strides = [{stride}], pads = {list(pads)}, output_padding = [{extra}]>"
    head = f'<ir_version: 8, opset_import: ["" : 18]> g (float[{x}] x) => (float[] z)'
    return parse(
        f"{head} {{ z = {conv} (x, w, b) }}",
        w=normal(3, channels, taps),
        b=normal(channels, seed=1),
    )


def gap(model: ir.Model, batch: int, size: int) -> float:
    """Difference in float64 after the rewrite, relative to the largest output; 0 if none runs."""
    changed = model.clone()
    proposal = propose(FORM, changed.graph[-1], 18)
    assert isinstance(proposal, Proposal)
    proposal.commit(set())
    found = difference(model, changed, {"x": np.float64(normal(batch, 3, size, seed=2))})
    return 0.0 if found is None else found[0] / max(1.0, found[1])


@SHORT
@given(
    unit=st.integers(1, 20),
    taps=st.integers(1, 12),
    stride=st.integers(1, 8),
    begin=st.integers(0, 6),
    end=st.integers(0, 6),
    extra=st.integers(0, 7),
    channels=st.sampled_from((1, 3)),
    batch=st.integers(1, 3),
    size=st.integers(1, 9),
)
def test_whatever_is_accepted_is_certified_and_equal(
    unit: int, taps: int, stride: int, begin: int, end: int, extra: int,
    channels: int, batch: int, size: int,
) -> None:  # fmt: skip
    lengths = [unit * n for n in (taps, stride, begin, end, extra % stride)]
    model = layer(*lengths[:2], (lengths[2], lengths[3]), lengths[4], channels, f"N, 3, {size}")
    proposal = propose(FORM, model.graph[-1], 18)
    assert isinstance(proposal, Proposal) == (unit * stride >= 16)
    assume(isinstance(proposal, Proposal))
    assert isinstance(proposal, Proposal)
    assert "exactly" in Prover({"": 18}, 0).certify(proposal)
    assert gap(model, batch, size) <= 1e-12


MISTAKES: dict[str, dict[str, Callable[[Any], Any]]] = {
    "pieces in opposite order": {"pads": lambda plan: plan.pads[::-1]},
    "pieces not shifted": {"pads": lambda plan: (plan.pads[0],) * len(plan.pads)},
    "cut at the other end": {"cuts": lambda plan: plan.cuts[::-1]},
    "not cut": {"cuts": lambda plan: (0, 0)},
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_fail_the_certificate(mistake: dict[str, Callable[[Any], Any]]) -> None:
    class Mutant(OverlapAdd):
        def find(self, root: ir.Node, opset: int) -> Site[Any]:
            site = super().find(root, opset)
            new = {name: change(site.plan) for name, change in mistake.items()}
            return dataclasses.replace(site, plan=dataclasses.replace(site.plan, **new))

    model = layer(48, 16, (8, 16), 0, 2, "N, 3, L")
    proposal = propose(Mutant(), model.graph[-1], 18)
    assert isinstance(proposal, Proposal)
    with pytest.raises(Disproved):
        Prover({"": 18}, 0).certify(proposal)


def test_mistakes_in_the_pieces_fail_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    model = layer(48, 16, (8, 16), 0, 2, "N, 3, L")
    right = overlap_add._pieces
    monkeypatch.setattr(overlap_add, "_pieces", lambda *given: right(*given)[::-1])
    assert gap(model, 2, 5) > 1e-3
