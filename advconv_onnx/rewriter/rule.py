"""What a rewrite rule is, and how one site of a graph is proposed, cut out and replaced.

A rule is a subclass of ``Rule`` in ``fusions/``: a pattern for ``onnxscript.rewriter`` to match, a
``check`` that looks closer and refuses with a reason, and a ``rewrite`` that builds the replacement
from what ``check`` returned. ``propose`` applies one rule at one node without changing the graph;
``cut`` turns the proposal into two small models that can be proved equal; ``commit`` applies it.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import onnx_ir as ir
from onnx_ir import convenience
from onnxscript.rewriter.pattern import MatchResult, Pattern

MERGED_NAMES = "advconv_onnx.merged_nodes"
"""Key of ``metadata_props`` where a new node keeps the names of the nodes it came from."""

RULE_NAME = "advconv_onnx.rule"
"""Key of ``metadata_props`` with the name of the rule that made a node."""


class Refused(Exception):
    """A site matches a rule's pattern but must not be rewritten; the message says why."""


class NoSite(Exception):
    """What matches a rule's pattern is something else after all: nothing worth reporting."""


class Rule(abc.ABC):
    """One rewrite; stateless, so one instance serves all graphs.

    Attributes:
        name: the rule's name in reports: a verb phrase, the name of its file.
        affine_in_weights: weights may be replaced by any numbers of the same shape and the rewrite
            still holds, so that integers can prove it exactly. False where it depends on particular
            constants, such as the 3 and 6 of a hard-swish.
        needs_shapes: the rewrite relies on sizes the model fixes, so that a proof must keep them.
        minimum_opset: first opset that has all operators the replacement uses.
        needs_any_of: operator types, one of which every site contains: a graph without any of them
            need not be searched. Empty when that says nothing.
    """

    name: ClassVar[str]
    affine_in_weights: ClassVar[bool] = True
    needs_shapes: ClassVar[bool] = False
    minimum_opset: ClassVar[int] = 1
    needs_any_of: ClassVar[frozenset[str]] = frozenset()

    @abc.abstractmethod
    def patterns(self) -> Iterable[Callable[..., Any]]:
        """Spellings to match: functions of ``op`` and named values, as onnxscript patterns."""

    @abc.abstractmethod
    def check(self, site: Site) -> Any:
        """Look closer at a matched site; return whatever ``rewrite`` needs.

        Raises:
            Refused: the site must not be rewritten.
            NoSite: only the operators are alike, the rule does not mean this.
        """

    @abc.abstractmethod
    def rewrite(self, op: Any, site: Site, plan: Any) -> ir.Value:
        """Build the replacement with ``op`` and return the value that stands for the root's."""

    def keeps(self, node: ir.Node) -> bool:
        """Whether a matched node may stay behind for other readers (then it is not merged)."""
        return False


@dataclasses.dataclass(frozen=True)
class Site:
    """A place in a graph where a rule's pattern matches.

    Attributes:
        values: the pattern's named values; None for an optional input that is absent.
        nodes: the matched nodes in graph order, the root last.
        opset: version of the default operator set of the model.
    """

    values: dict[str, Any]
    nodes: tuple[ir.Node, ...]
    opset: int

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    @property
    def root(self) -> ir.Node:
        """The node whose output is replaced."""
        return self.nodes[-1]


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A replacement of a site that has not been made yet."""

    rule: Rule
    site: Site
    new_nodes: tuple[ir.Node, ...]
    new_initializers: tuple[ir.Value, ...]
    new_output: ir.Value

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the nodes that would be replaced."""
        return tuple(node.name or node.op_type for node in self.site.nodes)

    def discard(self) -> None:
        """Give the proposal up: its nodes must no longer count as readers of the graph's values."""
        _detach(self.new_nodes)


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A site that matched and was refused."""

    rule: Rule
    names: tuple[str, ...]
    reason: str


class Matcher:
    """A rule made ready for ``onnxscript``'s pattern matcher."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._patterns = [Pattern(pattern) for pattern in rule.patterns()]

    def propose(self, model: ir.Model, graph: ir.Graph, node: ir.Node) -> Proposal | Refusal | None:
        """Apply the rule at ``node`` as the root, changing nothing; None when nothing matches."""
        refusal = None
        for pattern in self._patterns:
            match = pattern.match(model, graph, node, check_nodes_are_removable=False)
            result = self._propose_match(model, match) if match else None
            if isinstance(result, Proposal):
                return result
            refusal = refusal or result
        return refusal

    def _propose_match(self, model: ir.Model, match: MatchResult) -> Proposal | Refusal | None:
        order = {node: index for index, node in enumerate(match.nodes[0].graph or ())}
        nodes = tuple(sorted(match.nodes, key=order.__getitem__))
        site = Site(dict(match.bindings), nodes, model.opset_imports.get("", 0) or 0)
        builder = _Builder(_origin(node) for node in nodes)
        try:
            plan = self.rule.check(site)
            _check_readers(self.rule, site)
            if site.opset < self.rule.minimum_opset:
                raise Refused(f"needs opset {self.rule.minimum_opset}, the model has {site.opset}")
            output = builder.own(self.rule.rewrite(builder, site, plan))
        except NoSite:
            return None
        except Refused as refusal:
            _detach(builder.nodes)
            names = tuple(node.name or node.op_type for node in nodes)
            return Refusal(self.rule, names, str(refusal))
        return Proposal(self.rule, site, tuple(builder.nodes), tuple(builder.initializers), output)


def _detach(nodes: Iterable[ir.Node]) -> None:
    for node in nodes:
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)


def _origin(node: ir.Node) -> str:
    """Names in the model as it was given, of a node that may be a replacement itself."""
    return node.metadata_props.get(MERGED_NAMES, node.name or node.op_type)


def _check_readers(rule: Rule, site: Site) -> None:
    inside = set(site.nodes)
    for node in site.nodes[:-1]:
        if rule.keeps(node):
            continue
        for value in node.outputs:
            if value.is_graph_output():
                raise Refused(f"'{value.name}' is also an output of the graph")
            for reader, _ in value.uses():
                if reader not in inside:
                    raise Refused(f"'{value.name}' is also read by '{reader.name}'")
    for value in site.root.outputs[1:]:
        if value.is_graph_output() or value.uses():
            raise Refused(f"'{value.name}', a second output, is in use")


class _Builder:
    """Records the nodes of a replacement: ``op.Conv(x, w, strides=[2, 2])``."""

    def __init__(self, names: Iterable[str]) -> None:
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self._names = ",".join(names)

    def __getattr__(self, op_type: str) -> Callable[..., ir.Value]:
        def build(*inputs: ir.Value | None, **attributes: Any) -> ir.Value:
            node = ir.node(op_type, inputs, attributes)
            node.metadata_props[MERGED_NAMES] = self._names
            self.nodes.append(node)
            return node.outputs[0]

        return build

    def initializer(self, array: Any, name: str) -> ir.Value:
        """Add a constant; its name is made unique when the proposal is committed."""
        tensor = ir.tensor(array, name=name)
        value = ir.Value(
            name=name,
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self.initializers.append(value)
        return value

    def own(self, value: ir.Value) -> ir.Value:
        """Make sure that the replacement's output is made by a node of its own."""
        if value.producer() in self.nodes:
            return value
        identity: ir.Value = self.Identity(value)
        return identity


def cut(proposal: Proposal, opset_imports: dict[str, int]) -> tuple[ir.Model, ir.Model]:
    """Cut a proposal out of its graph: (the site as it is, the site rewritten), as small models.

    Their inputs have the same names (the rewritten site may have fewer), and so has their only
    output. Values of unknown type are taken as float32.
    """
    root = proposal.site.root.outputs[0]
    before = _small_model(proposal.site.nodes, root, root, opset_imports)
    after = _small_model(proposal.new_nodes, proposal.new_output, root, opset_imports)
    return before, after


def _small_model(
    nodes: Sequence[ir.Node],
    output: ir.Value,
    stands_for: ir.Value,
    opset_imports: dict[str, int],
) -> ir.Model:
    copies: dict[ir.Value, ir.Value] = {}
    graph_inputs: list[ir.Value] = []
    initializers: list[ir.Value] = []
    inner: list[ir.Value] = []

    def copy(value: ir.Value | None) -> ir.Value | None:
        if value is None or value in copies:
            return None if value is None else copies[value]
        tensor = value.const_value
        copies[value] = ir.Value(
            name=value.name,
            shape=value.shape,
            type=value.type or ir.TensorType(ir.DataType.FLOAT),
            const_value=tensor,
        )
        (graph_inputs if tensor is None else initializers).append(copies[value])
        return copies[value]

    new_nodes = []
    for index, node in enumerate(nodes):
        new = ir.Node(
            node.domain,
            node.op_type,
            [copy(value) for value in node.inputs],
            node.attributes.values(),
            num_outputs=len(node.outputs),
            name=node.name or f"n{index}",
        )
        for position, (old_value, new_value) in enumerate(
            zip(node.outputs, new.outputs, strict=True)
        ):
            new_value.name = old_value.name or f"n{index}_{position}"
            new_value.type = old_value.type
            copies[old_value] = new_value
            inner.append(new_value)
        new_nodes.append(new)
    result = copies[output]
    result.name = stands_for.name or "output"
    result.type = stands_for.type or ir.TensorType(ir.DataType.FLOAT)
    # New values have no unique names before they are committed.
    taken = {value.name or "" for value in (*graph_inputs, result)}
    for value in (*initializers, *inner):
        if value is not result:
            value.name = _unique(value.name or "", taken)
    graph = ir.Graph(
        graph_inputs,
        [result],
        nodes=new_nodes,
        initializers=initializers,
        opset_imports=opset_imports,
        name="site",
    )
    return ir.Model(graph, ir_version=10)


def commit(graph: ir.Graph, proposal: Proposal, taken: set[str]) -> None:
    """Replace the site in its graph; the root's output keeps its name.

    Args:
        graph: the graph that holds the site.
        proposal: made for the graph as it is now.
        taken: all names used in the model; names given to new things are added.
    """
    root = proposal.site.root
    for value in proposal.new_initializers:
        value.name = _unique(value.name or "weight", taken)
        if value.const_value is not None:
            value.const_value.name = value.name
        graph.register_initializer(value)
    for node in proposal.new_nodes:
        node.name = _unique(f"{root.name or root.op_type}_{proposal.rule.name}", taken)
        node.metadata_props[RULE_NAME] = proposal.rule.name
        for index, value in enumerate(node.outputs):
            if value is not proposal.new_output:
                value.name = _unique(f"{node.name}_{index}", taken)
    staying = {node for node in proposal.site.nodes[:-1] if _is_read_outside(node, proposal)}
    removed = [node for node in proposal.site.nodes if node not in staying]
    convenience.replace_nodes_and_values(
        graph,
        root,
        removed,
        proposal.new_nodes,
        [root.outputs[0]],
        [proposal.new_output],
    )


def _is_read_outside(node: ir.Node, proposal: Proposal) -> bool:
    inside = set(proposal.site.nodes)
    return any(
        value.is_graph_output() or any(reader not in inside for reader, _ in value.uses())
        for value in node.outputs
    )


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


def _unique(name: str, taken: set[str]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate
