"""Proof of one proposed rewrite, on the site cut out of its graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from advconv_onnx.errors import CheckError
from advconv_onnx.rewriter.rule import Matcher, Proposal, cut
from advconv_onnx.runtime.probe import SHAPES, difference, integer_inputs, integer_twin

SITE_TOLERANCE = 1e-5
"""Largest float64 difference, relative to the largest output, that rounding weights may cause."""

_SPREAD = 8.0
"""Float inputs reach this far to both sides: beyond every kink of an activation."""


class Disproved(Exception):
    """The two sides of a proposal are not equal; the message holds the evidence."""


def prove(matcher: Matcher, proposal: Proposal, opset_imports: dict[str, int], seed: int) -> str:
    """Prove that a proposal keeps the site's result.

    A rule that is affine in its weights is applied again to the site with integer weights, where
    both sides must agree to the bit on every shape tried. The proposal itself is then compared in
    float64 with the real weights, which shows what rounding the new weights costs.

    Returns:
        The certificate: what was compared, and the largest difference.

    Raises:
        Disproved: a difference was found, or nothing could be compared.
    """
    rng = np.random.default_rng(seed)
    before, after = cut(proposal, opset_imports)
    _check_model(after)
    parts = []
    shapes = SHAPES
    if matcher.rule.affine_in_weights:
        parts.append(_prove_with_integers(matcher, before, rng))
        shapes = 1  # The algebra is proved, what is left is how the new weights round.
    found: list[tuple[float, float]] = []
    for inputs in integer_inputs(before, rng, keep_shapes=matcher.rule.needs_shapes):
        reals = {name: rng.uniform(-_SPREAD, _SPREAD, a.shape) for name, a in inputs.items()}
        compared = _difference(before, after, reals) if len(found) < shapes else None
        found += [compared] if compared else []
    if not found:
        raise Disproved("the site runs in float64 on none of the shapes tried")
    # Over all shapes, because the few values of the smallest may all be nearly zero.
    largest = max(value for _, value in found)
    error = max(gap for gap, _ in found) / max(largest, np.finfo(np.float64).tiny)
    if not error <= SITE_TOLERANCE:
        raise Disproved(f"float64 difference {error:.1e} of range with the real weights")
    return "; ".join([*parts, f"float64 difference {error:.0e} on {len(found)} shapes"])


def _check_model(after: ir.Model) -> None:
    """Check what the reference, which computes all in float64, would not see: a wrong type."""
    proto = ir.to_proto(after)
    try:
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.SetInParent()  # The checker insists on one, if empty.
        onnx.checker.check_model(proto)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        reason = " ".join(str(error).split())
        raise Disproved(f"the rewritten site is no valid ONNX: {reason}") from error


def _prove_with_integers(matcher: Matcher, before: ir.Model, rng: np.random.Generator) -> str:
    shapes = 0
    for inputs in integer_inputs(before, rng, keep_shapes=matcher.rule.needs_shapes):
        twin = integer_twin(before, rng)
        root = list(twin.graph)[-1]
        proposal = matcher.propose(twin, twin.graph, root)
        if not isinstance(proposal, Proposal):
            raise Disproved("the rule does not apply to its own site with integer weights")
        _, after = cut(proposal, dict(twin.opset_imports))
        found = _difference(twin, after, inputs)
        if found and found[0]:
            raise Disproved(f"integer probe: the two sides differ by {found[0]:g}")
        shapes += found is not None
    if not shapes:
        raise Disproved("the site runs in float64 on none of the shapes tried")
    return f"integer probe exact on {shapes} shapes"


def _difference(
    before: ir.Model, after: ir.Model, inputs: dict[str, np.ndarray]
) -> tuple[float, float] | None:
    try:
        return difference(before, after, inputs)
    except CheckError as error:
        raise Disproved(f"the rewritten site does not run: {error}") from error
