"""General clean-up with onnx-ir's and onnxscript's passes, and ours where they leave bodies alone.

Nothing here is trusted: the optimizer validates what comes out, and gives up a step that fails.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as ir_passes
from onnxscript import optimizer as onnxscript_optimizer
from onnxscript.version_converter import ConvertVersionPass

from advconv_onnx import model as files
from advconv_onnx.errors import CheckError
from advconv_onnx.quiet import quiet
from advconv_onnx.rewriter.drop_loop_state import DropLoopState
from advconv_onnx.rewriter.hoist_invariants import HoistInvariants
from advconv_onnx.rewriter.inline_functions import InlineFunctions
from advconv_onnx.rewriter.inline_loops import InlineLoops
from advconv_onnx.rewriter.merge_repeated import MergeRepeated
from advconv_onnx.rewriter.notes import hand_on

_FOLDINGS = 8
"""Rounds of constant folding at most; trained models need up to three."""

_ANY_SIZE = 1 << 62


def tidy(model: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
    """Bring a graph into the form all rules expect; computes nothing.

    Local functions are inlined; constants become initializers; identities, unused nodes, repeated
    expressions and repeated initializers go; loops lose what they need not carry or compute in
    every iteration; nodes are sorted and named.

    Returns:
        The new model, and a line for each pass that failed on it and was left out.
    """
    # They report what they leave alone as warnings; here that is no event.
    with quiet("onnx_ir.passes.common"):
        try:
            return _run(_TIDYING, model), ()
        except Exception:  # A pass may raise anything; then each gets a copy of its own.
            return _run_apart(model)


def _run(steps: Sequence[ir.passes.PassBase], model: ir.Model) -> ir.Model:
    copy = model.clone()
    for step in steps:
        copy = step(copy).model
    return copy


def _run_apart(model: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
    failures = []
    for step in _TIDYING:
        try:
            model = _run((step,), model)
        except Exception as error:
            failures.append(f"{type(step).__name__}: {' '.join(str(error).split())}")
    return model, tuple(failures)


def settle(model: ir.Model) -> ir.Model:
    """Tidy a graph and infer its shapes: the state in which rules look at it."""
    model, _ = tidy(model)
    files.infer_shapes(model)
    return model


def clean(model: ir.Model) -> None:
    """Tidy what rewriting leaves behind, in place: identities, repetitions, unused nodes."""
    with quiet("onnx_ir.passes.common"):
        for step in _CLEANING:
            step(model)


class EliminateIdentities(ir.passes.InPlacePass):
    """Remove Identity nodes, those of bodies and functions too.

    onnx-ir 1.1's own pass also removes the Identity through which a body returns a value from
    outside, which ONNX demands, and renames an output of the graph that is returned twice.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Remove them, in place."""
        removable = [
            node
            for _, graph in files.graphs(model)
            for node in graph
            if node.op_type == "Identity" and not node.domain
        ]
        removed = [node for node in removable if _remove_identity(node)]
        return ir.passes.PassResult(model, modified=bool(removed))


def _remove_identity(node: ir.Node) -> bool:
    graph, x, y = node.graph, node.inputs[0], node.outputs[0]
    assert graph is not None
    assert x is not None
    producer = x.producer()
    if y.is_graph_output():
        if producer is None or producer.graph is not graph or x.is_graph_output():
            for reader, index in tuple(y.uses()):  # It stays for the output alone.
                reader.replace_input_with(index, x)
            return False
        x.name = y.name
        hand_on(y, x)
    x.type, x.shape = x.type or y.type, x.shape or y.shape
    ir.convenience.replace_all_uses_with(y, x, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return True


class FixNames(ir.passes.InPlacePass):
    """Give everything a unique name, but for outputs that are not wanted.

    onnx-ir's own pass names those too, which makes them wanted: a BatchNormalization of an old
    opset would then train.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Name them, in place."""
        absent = [
            value
            for _, graph in files.graphs(model)
            for node in graph
            for value in node.outputs
            if value.name == ""
        ]
        result = ir_passes.NameFixPass()(model)
        for value in absent:
            value.name = ""
        return result


_DEDUPLICATE = ir_passes.DeduplicateInitializersPass()
_REMOVE_UNUSED = ir_passes.RemoveUnusedNodesPass()
_SORT = ir_passes.TopologicalSortPass()

_CLEANING = (
    DropLoopState(),
    EliminateIdentities(),
    _SORT,
    _DEDUPLICATE,
    HoistInvariants(),
    MergeRepeated(),
    _REMOVE_UNUSED,
    FixNames(),
)

_TIDYING = (
    InlineFunctions(),
    ir_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    InlineLoops(),
    DropLoopState(),
    EliminateIdentities(),
    _DEDUPLICATE,
    HoistInvariants(),
    MergeRepeated(),
    _REMOVE_UNUSED,
    ir_passes.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
    ir_passes.RemoveUnusedOpsetsPass(),
    _SORT,
    FixNames(),
)


def fold_constants(model: ir.Model, largest: int) -> ir.Model:
    """Compute expressions of constants, until that finds nothing more.

    A branch that turns out to be taken, or a shape that becomes known, makes further constants.

    Args:
        model: changed in place, but for the last tidying.
        largest: elements a result may have unless it replaces its operands; a larger one, such as
            a table of sines, stays computed when the model is loaded, and the file small.
    """
    for _ in range(_FOLDINGS):
        before = files.count_nodes(model)
        with _misread_hidden(model):
            onnxscript_optimizer.fold_constants(
                model,
                onnx_shape_inference=False,
                input_size_limit=_ANY_SIZE,
                output_size_limit=largest,
                should_fold=_should_fold,
            )
        model = settle(model)
        if files.count_nodes(model) == before:
            break
    return model


@contextlib.contextmanager
def _misread_hidden(model: ir.Model) -> Iterator[None]:
    """Put nodes that onnxscript 0.7 folds wrongly into a domain it leaves alone, for a while."""
    hidden = [node for _, graph in files.graphs(model) for node in graph if _is_misread(node)]
    for node in hidden:
        node.domain = "advconv_onnx.hidden"
    try:
        yield
    finally:
        for node in hidden:
            node.domain = ""


def _is_misread(node: ir.Node) -> bool:
    """A CastLike that must not saturate would, the others fail or become invalid."""
    if node.domain:
        return False
    saturates = node.attributes.get_int("saturate", 1)
    sequences = ("ConcatFromSequence", "SplitToSequence")
    return node.op_type in sequences or (node.op_type == "CastLike" and not saturates)


def _should_fold(node: ir.Node) -> bool | None:
    """Fold ConstantOfShape too: the pads that torch computes begin with one."""
    return True if node.op_type == "ConstantOfShape" and not node.domain else None


def raise_opset(model: ir.Model, target: int) -> ir.Model:
    """A copy of the model in a newer opset, with the IR version that goes with it.

    Raises:
        CheckError: an operator cannot be converted.
    """
    copy = model.clone()
    # It warns of each conversion that it leaves to onnx's own converter.
    with quiet("onnxscript.version_converter"):
        result = ConvertVersionPass(target, fallback=True)(copy).model
    if files.opset(result) != target:
        raise CheckError(f"opset {files.opset(model)} cannot be converted to {target}")
    imports = [onnx.helper.make_opsetid(*entry) for entry in result.opset_imports.items()]
    newest = onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True)
    result.ir_version = max(result.ir_version, newest)
    return result
