"""The forms of one site, timed against each other and against the site as it is."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx.errors import CheckError
from advconv_onnx.inspection import inspect
from advconv_onnx.optimizer.prove import Disproved, Prover
from advconv_onnx.optimizer.window import window
from advconv_onnx.records import Rewrite
from advconv_onnx.rewriter.forms.form import Form
from advconv_onnx.rewriter.proposal import Proposal, Refusal, names_in, propose
from advconv_onnx.runtime.probe import structure


@dataclasses.dataclass(frozen=True)
class Next:
    """A form of the site that ends in one of the nodes that another form makes.

    Attributes:
        index: of the node among those made.
    """

    index: int
    form: Form[Any]
    certificate: str


@dataclasses.dataclass(frozen=True)
class Choice:
    """A form that may be chosen for a site.

    Attributes:
        root: name of the node the site ends in.
        nodes: names of the site's nodes.
        certificate: what was proved about it.
        then: forms of what this form makes.
    """

    form: Form[Any]
    root: str
    nodes: tuple[str, ...]
    certificate: str
    then: tuple[Next, ...] = ()

    @property
    def name(self) -> str:
        """Of the form and those that follow it."""
        return " + ".join([self.form.name, *(after.form.name for after in self.then)])

    @property
    def proof(self) -> str:
        """The certificates of the form and of those that follow it."""
        return "; ".join([self.certificate, *(after.certificate for after in self.then)])


def find_choices(
    model: ir.Model,
    forms: Sequence[Form[Any]],
    prover: Prover,
    among: Collection[str | None] | None = None,
) -> tuple[list[Choice], list[Rewrite]]:
    """Every form of every site in a model's main graph, certified.

    Args:
        model: stays as it is; its shapes should have been inferred.
        forms: to look for.
        prover: of the model.
        among: names of the nodes that sites may consist of; None for all.

    Returns:
        The choices in graph order, and a record of each site that was refused or disproved.
    """
    opset = files.opset(model)
    choices, records = [], []
    for node in model.graph:
        if among is not None and node.name not in among:
            continue
        for form in forms:
            result = propose(form, node, opset)
            if isinstance(result, Refusal):
                records.append(Rewrite(form.name, result.names, "refused", result.reason))
            if not isinstance(result, Proposal):
                continue
            if among is not None and not set(result.names) <= set(among):
                result.discard()
                continue
            try:
                certificate = prover.certify(result)
                choices.append(Choice(form, node.name or "", result.names, certificate))
            except Disproved as evidence:
                records.append(Rewrite(form.name, result.names, "inaccurate", str(evidence)))
            finally:
                result.discard()
    return choices, records


def apply(
    model: ir.Model, choice: Choice, check: Callable[[Proposal], str | None] | None = None
) -> str | None:
    """Rewrite a site in place.

    Args:
        model: should have nodes of the names in ``choice``.
        choice: the form and its site.
        check: returns why a proposal must not be made, None if it may.

    Returns:
        Why the model is not as wanted, None if it is; forms before the one that failed are made.
    """
    nodes = {node.name: node for node in model.graph}
    if any(name not in nodes for name in choice.nodes):
        return "a node of the site is gone"
    made, problem = _commit(model, choice.form, nodes[choice.root], choice.nodes, check)
    if choice.then:
        files.infer_shapes(model)  # which the forms that follow may need
    for after in choice.then:
        if problem is None:
            _, problem = _commit(model, after.form, made[after.index], (), check)
    return problem


def _commit(
    model: ir.Model,
    form: Form[Any],
    root: ir.Node,
    names: tuple[str, ...],
    check: Callable[[Proposal], str | None] | None,
) -> tuple[tuple[ir.Node, ...], str | None]:
    """Make one rewrite, small if need be; returns the new nodes, and why nothing was made."""
    result = propose(form, root, files.opset(model))
    if isinstance(result, Refusal):
        return (), result.reason
    if result is None or (names and result.names != names):
        return (), "the site is another one now"
    problem = check(result) if check else None
    if problem:
        result.discard()
        return _commit(model, form.small, root, names, check) if form.small else ((), problem)
    result.commit(names_in(model))
    return result.new_nodes, None


@dataclasses.dataclass(frozen=True)
class Contest:
    """A site, or neighbouring ones, in their surroundings, with variants of them to compare.

    Attributes:
        window: the sites as they are, and what surrounds them.
        variants: by name, the choices that make a variant.
        sites: for all places that look like this one, and differ in weights only, the choices of
            each variant there.
    """

    window: ir.Model
    variants: Mapping[str, tuple[Choice, ...]]
    sites: tuple[Mapping[str, tuple[Choice, ...]], ...]

    @classmethod
    def of(cls, twin: ir.Model, variants: Mapping[str, tuple[Choice, ...]]) -> Contest:
        """Cut the window of some choices out of a model.

        Args:
            twin: the model with static shapes that were inferred.
            variants: whose choices are found in the twin by the names of their nodes.
        """
        wanted = {name for v in variants.values() for choice in v for name in choice.nodes}
        nodes = [node for node in twin.graph if node.name in wanted]
        return cls(window(nodes, dict(twin.opset_imports)), variants, (variants,))

    @functools.cached_property
    def signature(self) -> str:
        """Equal for the same sites in windows that differ in nothing but names and weights."""
        index = {node.name: i for i, node in enumerate(self.window.graph)}
        nodes = dict.fromkeys(c.nodes for choices in self.variants.values() for c in choices)
        sites = [sorted(index[name] for name in names) for names in nodes]
        return hashlib.sha256(repr((structure(self.window), sites)).encode()).hexdigest()

    def inputs(self, seed: int) -> dict[str, np.ndarray]:
        """One inference's arrays for the window."""
        rng = np.random.default_rng(seed)
        return {value.name or "": _draw(value, rng) for value in self.window.graph.inputs}

    def with_forms_after(self, name: str, then: tuple[Next, ...]) -> Contest:
        """The same with a further variant: that of a name, and forms of what it makes."""

        def extended(variants: Mapping[str, tuple[Choice, ...]]) -> dict[str, tuple[Choice, ...]]:
            if name not in variants:  # Weights may decide whether a form applies.
                return dict(variants)
            [first] = variants[name]
            choice = dataclasses.replace(first, then=then)
            return {**variants, choice.name: (choice,)}

        sites = tuple(map(extended, self.sites))
        return dataclasses.replace(self, variants=sites[0], sites=sites)

    def model(self, name: str) -> ir.Model:
        """The window with one variant, its shapes inferred.

        Raises:
            CheckError: the variant cannot be made here.
        """
        model = self.window.clone()
        for choice in self.variants[name]:
            if problem := apply(model, choice):
                raise CheckError(problem)
        files.infer_shapes(model)
        return model


def site_contests(twin: ir.Model, choices: Sequence[Choice]) -> list[Contest]:
    """One contest for each kind of site, those first that do most work in all.

    Args:
        twin: the model with static shapes that were inferred.
        choices: of the model.
    """
    by_site: dict[tuple[str, ...], dict[str, tuple[Choice, ...]]] = {}
    for choice in choices:
        by_site.setdefault(choice.nodes, {})[choice.name] = (choice,)
    alike: dict[str, list[Contest]] = {}
    for variants in by_site.values():
        contest = Contest.of(twin, variants)
        alike.setdefault(contest.signature, []).append(contest)
    merged = [
        dataclasses.replace(group[0], sites=tuple(contest.variants for contest in group))
        for group in alike.values()
    ]
    return sorted(merged, key=lambda contest: -_work(contest.window) * len(contest.sites))


def _work(model: ir.Model) -> int:
    """Multiplications of a window's convolutions, as far as they are known."""
    return sum(layer.costs.macs or 0 for layer in inspect(model).layers)


def timing_twin(model: ir.Model, inputs: Mapping[str, np.ndarray]) -> ir.Model:
    """A copy whose shapes are those it will be timed at."""
    twin = model.clone()
    files.override_inputs(
        twin, {name: tuple(array.shape) for name, array in inputs.items() if array.ndim}
    )
    files.infer_shapes(twin)
    return twin


def _draw(value: ir.Value, rng: np.random.Generator) -> np.ndarray:
    assert value.shape is not None
    assert value.dtype is not None
    shape = [dim if isinstance(dim, int) else 1 for dim in value.shape]
    dtype = value.dtype.numpy()
    if dtype.kind == "f":
        return rng.normal(size=shape).astype(dtype)
    return np.ones(shape, dtype)
