"""Puts the bodies of local functions in the place of their calls, where that is exact.

Rules and other passes then see through calls: a function called with constants has them as
constants inside. onnx-ir's pass does the substitution; this one decides for which functions, and
works around what the pass does not do: translate operator set versions, return an input of the
function, and keep the names of calls.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as ir_passes

from advconv_onnx import model as files
from advconv_onnx.rewriter.builder import MERGED_NAMES


class InlineFunctions(ir.passes.InPlacePass):
    """Inline calls of local functions, those in bodies and in other functions too.

    A function stays with all that it calls if

    * ONNX Runtime has kernels for its domain, which it prefers to the function's body,
    * it is written for another version of an operator set, in which an operator it uses differs,
    * it declares an attribute of graph type, or one of its calls passes one.

    Each node put in place of a call carries the call's metadata, and its name among the names of
    the nodes it came from.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Inline them, in place."""
        chosen = _inlinable(model)
        for function in chosen.values():
            _own_outputs(function)
        called_from = set(model.graphs())  # A function's own names say nothing without its call's.
        calls = [node for node in _nodes(model) if node.op_identifier() in chosen]
        for call in calls:
            _want_all_outputs(call, chosen[call.op_identifier()])
            if call.name and call.graph in called_from:
                call.metadata_props.setdefault(MERGED_NAMES, call.name)
        if calls:
            ir_passes.InlinePass(lambda function: function.identifier() in chosen)(model)
        return ir.passes.PassResult(model, modified=bool(calls))


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    for _, graph in files.graphs(model):
        yield from graph


def _inlinable(model: ir.Model) -> dict[ir.OperatorIdentifier, ir.Function]:
    """The functions to inline, their imports adapted to the model's."""
    functions = model.functions
    if any(_passes_graph(node) for node in _nodes(model) if node.op_identifier() in functions):
        return {}
    imports = dict(model.opset_imports)
    staying = [
        function
        for function in functions.values()
        if function.domain in files.RUNNABLE_DOMAINS or not _adapt(function, imports)
    ]
    chosen = dict(functions)
    while staying:
        function = staying.pop()
        if chosen.pop(function.identifier(), None) is not None:
            called = {node.op_identifier() for node in function.all_nodes()}
            staying += [chosen[key] for key in called & chosen.keys()]
    return chosen


def _passes_graph(call: ir.Node) -> bool:
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(attribute.type in graphs for attribute in call.attributes.values())


def _adapt(function: ir.Function, imports: dict[str, int]) -> bool:
    """Give a function the model's versions of operator sets, if its operators are the same there.

    Args:
        function: changed only if they are.
        imports: the versions by domain; gets those of domains that only the function imports.
    """
    used: dict[str, set[str]] = {}
    for node in function.all_nodes():
        used.setdefault(node.domain, set()).add(node.op_type)
    versions = {d: v for d, v in function.opset_imports.items() if d in used}
    for domain, version in versions.items():
        newer = imports.get(domain, version)
        if not all(_is_same(domain, op_type, version, newer) for op_type in used[domain]):
            return False
    for domain, version in versions.items():
        versions[domain] = imports.setdefault(domain, version)
    function.opset_imports.clear()
    function.opset_imports.update(versions)
    return True


def _is_same(domain: str, op_type: str, version: int, other: int) -> bool:
    """Whether an operator means the same in two versions of its operator set."""
    if version == other:
        return True
    try:
        one, two = (onnx.defs.get_schema(op_type, v, domain) for v in (version, other))
    except onnx.defs.SchemaError:
        return False
    return bool(one.since_version == two.since_version)


def _own_outputs(function: ir.Function) -> None:
    """Return an input of a function, or a value that is returned twice, through an Identity."""
    outputs = function.outputs
    for index, value in enumerate(list(outputs)):
        if value.is_graph_input() or value in outputs[:index]:
            identity = ir.node("Identity", [value])
            function.append(identity)
            function.outputs[index] = identity.outputs[0]


def _want_all_outputs(call: ir.Node, function: ir.Function) -> None:
    """Give a call the outputs it leaves out or does not name, for onnx-ir replaces them all."""
    call.resize_outputs(len(function.outputs))
    for value in call.outputs:
        value.name = value.name or None
