"""How far a model lies from itself with a form, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.proposal import Proposal, names_in
from advconv_onnx.runtime.probe import difference
from tests.parsing import normal


def gap_after(model: ir.Model, proposed: Callable[[ir.Node], Any]) -> float | None:
    """Difference after a rewrite, relative to the largest output; None if the model does not run.

    Args:
        model: with inputs of fixed shapes; stays as it is.
        proposed: what a form makes of the last node, which must be a proposal.
    """
    changed = model.clone()
    made = proposed(changed.graph[-1])
    assert isinstance(made, Proposal)
    made.commit(names_in(changed))
    inputs = {
        str(value.name): np.float64(normal(*map(int, value.shape or ()), seed=seed))
        for seed, value in enumerate(model.graph.inputs, start=2)
    }
    compared = difference(model, changed, inputs)
    return None if compared is None else compared[0] / max(compared[1], 1.0)
