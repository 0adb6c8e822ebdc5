"""Replacements of sites: proposed without changing a graph, then committed to it.

``propose`` applies a rule at one node, ``Proposal.commit`` makes the change. What a rule may not do
is checked here once for all rules: take away a value that something else still reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx.rewriter.builder import MERGED_NAMES, Builder
from advconv_onnx.rewriter.notes import hand_on
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site

RULE_NAME = "advconv_onnx.rule"
"""Key of ``metadata_props`` with the name of the rule that made a node."""


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A site that a rule looked at and refused.

    Attributes:
        wanted_opset: what it waits for, 0 where that would not help.
    """

    rule: Rule[Any]
    names: tuple[str, ...]
    reason: str
    wanted_opset: int = 0


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A replacement of a site that has not been made yet.

    Attributes:
        new_outputs: one for each of ``site.replaced``.
    """

    rule: Rule[Any]
    site: Site[Any]
    new_nodes: tuple[ir.Node, ...]
    new_initializers: tuple[ir.Value, ...]
    new_outputs: tuple[ir.Value, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the nodes that would be replaced."""
        return tuple(map(_name, self.site.nodes))

    @property
    def growth(self) -> int:
        """Bytes of constants that the model gains, a weight that others still read among them."""
        new = (value.const_value for value in self.new_initializers)
        read = {v for node in self.site.nodes for v in node.inputs if v is not None}
        old = (v.const_value for v in read if not _is_read_outside(v, set(self.site.nodes)))
        gained, freed = (sum(t.nbytes for t in tensors if t is not None) for tensors in (new, old))
        return gained - freed

    def discard(self) -> None:
        """Give the proposal up: its nodes must no longer count as readers of the graph's values."""
        _detach(_with_bodies(self.new_nodes))

    def commit(self, taken: set[str]) -> None:
        """Replace the site in its graph; replaced values keep their names.

        New nodes inherit metadata and doc strings of all nodes of the site, the root's first.

        New nodes are put behind the root: where a site has several outputs, the graph may have to
        be sorted afterwards.

        Args:
            taken: all names used in the model; names given to new things are added.
        """
        site = self.site
        graph = site.root.graph
        assert graph is not None
        for value in self.new_initializers:
            value.name = unique(value.name or "weight", taken)
            if value.const_value is not None:
                value.const_value.name = value.name
            graph.register_initializer(value)
        for node in self.new_nodes:
            node.name = unique(f"{_name(site.root)}_{self.rule.name}", taken)
            node.metadata_props[RULE_NAME] = self.rule.name
            for old in reversed(site.nodes):
                hand_on(old, node)
            for index, value in enumerate(node.outputs):
                if value not in self.new_outputs:
                    value.name = unique(f"{node.name}_{index}", taken)
        for old_value, new_value in zip(site.replaced, self.new_outputs, strict=True):
            hand_on(old_value, new_value)
        removed = self._removable()
        _detach(node for node in _with_bodies(removed) if node not in removed)
        ir.convenience.replace_nodes_and_values(
            graph, site.root, removed, self.new_nodes, site.replaced, self.new_outputs
        )

    def _removable(self) -> list[ir.Node]:
        """Nodes of the site that nothing reads once its outputs are replaced, in graph order."""
        gone: set[ir.Node] = set()
        for node in reversed(self.site.nodes):
            values = [value for value in node.outputs if value not in self.site.replaced]
            if not any(_is_read_outside(value, gone) for value in values):
                gone.update(_with_bodies([node]))
        return [node for node in self.site.nodes if node in gone]


def propose(rule: Rule[Any], root: ir.Node, opset: int) -> Proposal | Refusal | None:
    """Apply a rule at ``root``, changing nothing; None where it has no site."""
    if root.op_type not in rule.roots or root.domain:
        return None
    names: tuple[str, ...] = (_name(root),)
    wanted_opset = 0
    builder = None
    try:
        site = rule.find(root, opset)
        names = tuple(map(_name, site.nodes))
        _check_readers(rule, site)
        if opset < rule.minimum_opset:
            wanted_opset = rule.minimum_opset
            raise Refused(f"needs opset {rule.minimum_opset}, the model has {opset}")
        builder = Builder(opset, map(_origin, site.nodes))
        built = rule.rewrite(builder, site.plan)
        outputs = builder.own([built] if isinstance(built, ir.Value) else built)
    except (NoSite, Refused) as outcome:
        _detach(_with_bodies(builder.nodes) if builder else ())
        if isinstance(outcome, NoSite):
            return None
        return Refusal(rule, names, str(outcome), wanted_opset)
    made = tuple(builder.nodes)
    return Proposal(rule, site, made, tuple(builder.initializers), tuple(outputs))


def names_in(model: ir.Model) -> set[str]:
    """Every name of a node or value in a model, its bodies and functions included."""
    names: set[str] = set()
    for graph in [*model.graphs(), *(function.graph for function in model.functions.values())]:
        values = [*graph.inputs, *graph.initializers.values()]
        for node in graph:
            names.add(node.name or "")
            values += node.outputs
        names.update(value.name or "" for value in values)
    return names


def unique(name: str, taken: set[str]) -> str:
    """A name that is not taken, which then is."""
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate


def _with_bodies(nodes: Iterable[ir.Node]) -> Iterator[ir.Node]:
    for node in nodes:
        yield node
        for _, body in files.bodies(node):
            yield from _with_bodies(body)


def _detach(nodes: Iterable[ir.Node]) -> None:
    for node in nodes:
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)


def _name(node: ir.Node) -> str:
    return node.name or node.op_type


def _origin(node: ir.Node) -> str:
    """Names in the model as it was given, of a node that may be a replacement itself."""
    return node.metadata_props.get(MERGED_NAMES, _name(node))


def _is_read_outside(value: ir.Value, inside: Iterable[ir.Node]) -> bool:
    return value.is_graph_output() or any(reader not in inside for reader, _ in value.uses())


def _check_readers(rule: Rule[Any], site: Site[Any]) -> None:
    inside = set(_with_bodies(site.nodes))
    for node in site.nodes:
        if node.graph is not site.root.graph:
            raise NoSite  # A body cannot take away a node of the graph around it.
        for value in node.outputs:
            if value in site.replaced or rule.keeps(node):
                continue
            if value.is_graph_output():
                raise Refused(f"'{value.name}' is also an output of the graph")
            for reader, _ in value.uses():
                if reader not in inside:
                    raise Refused(f"'{value.name}' is also read by '{reader.name}'")
