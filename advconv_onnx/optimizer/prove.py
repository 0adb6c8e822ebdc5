"""Proof of one proposed rewrite, on the site cut out of its graph."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from advconv_onnx.algebra.certificate import Certificate, NotEqual
from advconv_onnx.errors import CheckError
from advconv_onnx.rewriter.cut import cut
from advconv_onnx.rewriter.forms.form import Form
from advconv_onnx.rewriter.proposal import Proposal, propose
from advconv_onnx.rewriter.rule import Rule
from advconv_onnx.runtime.probe import SHAPES, difference, integer_inputs, integer_twin, structure

SITE_TOLERANCE = 1e-5
"""Largest float64 difference, relative to the largest output, that rounding weights may cause."""

_SPREAD = 8.0
"""Float inputs reach this far to both sides: beyond every kink of an activation."""

_LARGE = 1 << 10
"""Constants of more elements are left out of shape inference, which only reads small ones."""


class Disproved(Exception):
    """The two sides of a proposal are not equal; the message holds the evidence."""


class NotCompared(Disproved):
    """The site itself ran on nothing that was tried; it may where more of its shapes is known."""


class Prover:
    """Proves proposals for one model.

    Sites of one rule that are alike in all but their weights share the integer probe, which draws
    its own weights anyway; what is done with the real weights is done for each.
    """

    def __init__(self, opset_imports: dict[str, int], seed: int) -> None:
        """Prepare proofs for a model.

        Args:
            opset_imports: versions of the operator sets by domain.
            seed: of all numbers drawn.
        """
        self._opset_imports = opset_imports
        self._seed = seed
        self._probed: dict[object, str] = {}

    def prove(self, proposal: Proposal) -> str:
        """Prove that a proposal keeps the site's results.

        A rule that is affine in its weights is applied again to the site with integer weights,
        where both sides must agree to the bit on every shape tried. The proposal itself is then
        compared in float64 with the real weights, which shows what rounding the new weights costs.
        The shapes inferred for the new nodes' values are left on them.

        Returns:
            The certificate: what was compared, and the largest difference.

        Raises:
            Disproved: a difference was found, or nothing could be compared.
        """
        rng = np.random.default_rng(self._seed)
        before, after = cut(proposal, self._opset_imports)
        _check_model(after, proposal)
        rule = proposal.rule
        parts = []
        shapes = SHAPES
        if rule.affine_in_weights:
            parts.append(self._probe(rule, before, rng))
            shapes = 1  # The algebra is proved, what is left is how the new weights round.
        found: list[tuple[float, float]] = []
        for inputs in integer_inputs(before, rng, keep_shapes=rule.needs_shapes):
            if len(found) == shapes:
                break
            reals = {name: _real(a, rng) for name, a in inputs.items()}
            compared = _difference(before, after, reals)
            found += [compared] if compared else []
        if not found:
            raise NotCompared("the site runs in float64 on none of the shapes tried")
        # Over all shapes, because the few values of the smallest may all be nearly zero.
        largest = max(value for _, value in found)
        error = max(gap for gap, _ in found) / (largest or float(np.finfo(np.float64).tiny))
        if not error <= SITE_TOLERANCE:
            raise Disproved(f"float64 difference {error:.1e} of range with the real weights")
        return "; ".join([*parts, f"float64 difference {error:.0e} on {len(found)} shapes"])

    def certify(self, proposal: Proposal) -> str:
        """Prove that a form computes the same in exact arithmetic; rounding is not looked at.

        Returns:
            The certificate: the identity of each axis, or what the integer probe found.

        Raises:
            Disproved: an identity does not hold, or the rewritten site is no valid ONNX.
        """
        form = proposal.rule
        assert isinstance(form, Form)
        before, after = cut(proposal, self._opset_imports)
        _check_model(after, proposal)
        if form.affine_in_weights:
            return self._probe(form, before, np.random.default_rng(self._seed))
        key = (form.name, structure(before))
        if key not in self._probed:
            try:
                self._probed[key] = "; ".join(map(str, _timed(form, proposal.site.plan)))
            except (NotEqual, ValueError) as difference:
                raise Disproved(str(difference)) from difference
        return self._probed[key]

    def _probe(self, rule: Rule[Any], before: ir.Model, rng: np.random.Generator) -> str:
        key = (rule.name, structure(before))
        if key not in self._probed:
            self._probed[key] = _prove_with_integers(rule, before, rng)
        return self._probed[key]


def _timed(form: Form[Any], plan: Any) -> Iterator[Certificate]:
    """The certificates of a form, with the time that each took."""
    certificates = iter(form.certify(plan))
    while True:
        start = time.perf_counter()
        certificate = next(certificates, None)
        if certificate is None:
            return
        yield dataclasses.replace(certificate, seconds=time.perf_counter() - start)


def _real(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Floats of both signs for an input of float type, the array itself for another.

    A read-only array is one whose numbers do not matter: it may be large, and takes no memory.
    """
    if array.dtype.kind != "f" or not array.flags.writeable:
        return array
    return rng.uniform(-_SPREAD, _SPREAD, array.shape)


def _check_model(after: ir.Model, proposal: Proposal) -> None:
    """Check what the reference, which computes all in float64, would not see: a wrong type.

    The types and shapes found are given to the new nodes' values.
    """
    proto = ir.to_proto(_without_weights(after))
    try:
        inferred = onnx.shape_inference.infer_shapes(
            proto, check_type=True, strict_mode=True, data_prop=True
        )
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.SetInParent()  # The checker insists on one, if empty.
        onnx.checker.check_model(proto)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        reason = " ".join(str(error).split())
        raise Disproved(f"the rewritten site is no valid ONNX: {reason}") from error
    known = {v.name: v for v in (*inferred.graph.value_info, *inferred.graph.output)}
    for node, copy in zip(proposal.new_nodes, after.graph, strict=True):
        for new, same in zip(node.outputs, copy.outputs, strict=True):
            if same.name in known and known[same.name].type.HasField("tensor_type"):
                _annotate(new, known[same.name].type)


def _annotate(value: ir.Value, found: onnx.TypeProto) -> None:
    value.type = ir.serde.deserialize_type_proto_for_type(found)
    shape = ir.serde.deserialize_type_proto_for_shape(found)
    if shape is not None:
        # Names that inference makes up ("unk__0") would be taken for equal in other sites.
        value.shape = ir.Shape(map(_size, shape))


def _size(dim: int | ir.SymbolicDim) -> int | str | None:
    size = dim.value if isinstance(dim, ir.SymbolicDim) else dim
    return None if isinstance(size, str) and size.startswith("unk__") else size


def _without_weights(model: ir.Model) -> ir.Model:
    """The model with its large constants as inputs, and outputs whose shapes nobody claims."""
    copy = model.clone()
    for output in copy.graph.outputs:
        output.shape = None
    for name, value in list(copy.graph.initializers.items()):
        if value.const_value is not None and value.const_value.size > _LARGE:
            del copy.graph.initializers[name]
            value.const_value = None
            copy.graph.inputs.append(value)
    return copy


def _prove_with_integers(rule: Rule[Any], before: ir.Model, rng: np.random.Generator) -> str:
    shapes = 0
    for inputs in integer_inputs(before, rng, keep_shapes=rule.needs_shapes):
        twin = integer_twin(before, rng)
        opset = twin.opset_imports[""]
        proposal = propose(rule, list(twin.graph)[-1], opset)
        if not isinstance(proposal, Proposal):
            raise Disproved("the rule does not apply to its own site with integer weights")
        _, after = cut(proposal, dict(twin.opset_imports))
        found = _difference(twin, after, inputs)
        if found and found[0]:
            raise Disproved(f"integer probe: the two sides differ by {found[0]:g}")
        shapes += found is not None
    if not shapes:
        raise NotCompared("the site runs in float64 on none of the shapes tried")
    return f"integer probe exact on {shapes} shapes"


def _difference(
    before: ir.Model, after: ir.Model, inputs: dict[str, np.ndarray]
) -> tuple[float, float] | None:
    try:
        return difference(before, after, inputs)
    except CheckError as error:
        raise Disproved(f"the rewritten site does not run: {error}") from error
