"""The forms of one site, timed against each other and against the site as it is."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx.inspection import inspect
from advconv_onnx.optimizer.prove import Disproved, Prover
from advconv_onnx.optimizer.window import window
from advconv_onnx.records import Rewrite
from advconv_onnx.rewriter.forms.form import Form
from advconv_onnx.rewriter.proposal import Proposal, Refusal, names_in, propose
from advconv_onnx.runtime.probe import structure


@dataclasses.dataclass(frozen=True)
class Choice:
    """A form that may be chosen for a site.

    Attributes:
        root: name of the node the site ends in.
        nodes: names of the site's nodes.
        certificate: what was proved about it.
    """

    form: Form[Any]
    root: str
    nodes: tuple[str, ...]
    certificate: str


def find_choices(
    model: ir.Model, forms: Sequence[Form[Any]], prover: Prover
) -> tuple[list[Choice], list[Rewrite]]:
    """Every form of every site in a model's main graph, certified.

    Returns:
        The choices in graph order, and a record of each site that was refused or disproved.
    """
    opset = files.opset(model)
    choices, records = [], []
    for node in model.graph:
        for form in forms:
            result = propose(form, node, opset)
            if isinstance(result, Refusal):
                records.append(Rewrite(form.name, result.names, "refused", result.reason))
            if not isinstance(result, Proposal):
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
        model: has nodes of the names in ``choice``.
        check: returns why a proposal must not be made, None if it may.

    Returns:
        Why the model stays as it is, None if it was rewritten.
    """
    nodes = {node.name: node for node in model.graph}
    if any(name not in nodes for name in choice.nodes):
        return "a node of the site is gone"
    result = propose(choice.form, nodes[choice.root], files.opset(model))
    if isinstance(result, Refusal):
        return result.reason
    if result is None or result.names != choice.nodes:
        return "the site is another one now"
    problem = check(result) if check else None
    if problem:
        result.discard()
        return problem
    result.commit(names_in(model))
    return None


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
        """Equal for windows that differ in nothing but names and weights."""
        return hashlib.sha256(repr(structure(self.window)).encode()).hexdigest()

    def inputs(self, seed: int) -> dict[str, np.ndarray]:
        """One inference's arrays for the window."""
        rng = np.random.default_rng(seed)
        return {value.name or "": _draw(value, rng) for value in self.window.graph.inputs}

    def write(self, folder: Path, names: Sequence[str]) -> tuple[dict[str, Path], dict[str, str]]:
        """Write the window as it is ("") and as some variants, for processes to load.

        Returns:
            The files by name of the variant, and why a variant could not be made.
        """
        paths, problems = {"": folder / "window.onnx"}, {}
        files.save(self.window, paths[""])
        for index, name in enumerate(names):
            model = self.window.clone()
            problem = next(filter(None, (apply(model, c) for c in self.variants[name])), None)
            if problem:
                problems[name] = problem
                continue
            paths[name] = folder / f"variant_{index}.onnx"
            files.save(model, paths[name])
        return paths, problems


def site_contests(twin: ir.Model, choices: Sequence[Choice]) -> list[Contest]:
    """One contest for each kind of site, those first that do most work in all.

    Args:
        twin: the model with static shapes that were inferred.
        choices: of the model.
    """
    by_site: dict[tuple[str, ...], dict[str, tuple[Choice, ...]]] = {}
    for choice in choices:
        by_site.setdefault(choice.nodes, {})[choice.form.name] = (choice,)
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
