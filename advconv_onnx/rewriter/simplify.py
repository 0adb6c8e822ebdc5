"""General clean-up with other people's passes: onnx-ir, onnxscript and onnxsim.

onnxsim runs C++ on whatever the file holds, so it gets a process of its own (this module run as a
script) that can be killed and whose memory is bounded. Nothing here is trusted: the optimizer
verifies the result of each step.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as ir_passes
from onnxscript import optimizer as onnxscript_optimizer
from onnxscript.version_converter import ConvertVersionPass

from advconv_onnx import model as files
from advconv_onnx.errors import CheckError, InputError, MissingDependencyError
from advconv_onnx.quiet import quiet
from advconv_onnx.rewriter.drop_loop_state import DropLoopState
from advconv_onnx.rewriter.hoist_invariants import HoistInvariants
from advconv_onnx.rewriter.inline_functions import InlineFunctions
from advconv_onnx.rewriter.inline_loops import InlineLoops
from advconv_onnx.rewriter.merge_repeated import MergeRepeated
from advconv_onnx.rewriter.notes import hand_on
from advconv_onnx.rewriter.repeatable import RANDOM

_OURS = (
    "eliminate_common_subexpression",
    "fuse_add_bias_into_conv",
    "fuse_bn_into_conv",
    "fuse_gelu",
    "fuse_matmul_into_conv",
    "fuse_mul_into_conv",
    "fuse_pad_into_conv",
    "fuse_preceding_mul_into_conv",
    "fuse_reduce_sum_into_conv",
)
"""Passes of onnxsim that are left to ours, which prove what they do: it takes a constant of shape
(W,) for one per channel where W equals the channels, trains BatchNormalization away, and merges
operators of which it cannot know whether they draw random numbers."""

_FOLDINGS = 8
"""Rounds of constant folding at most; trained models need up to three."""

_ANY_SIZE = 1 << 62

_PACKAGE_ROOT = str(Path(__file__).parents[2])


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
    """Take away what rewriting leaves behind, in place: identities, unused nodes, disorder."""
    with quiet("onnx_ir.passes.common"):
        for step in (EliminateIdentities(), _REMOVE_UNUSED, _SORT):
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


_REMOVE_UNUSED = ir_passes.RemoveUnusedNodesPass()
_SORT = ir_passes.TopologicalSortPass()

_TIDYING = (
    InlineFunctions(),
    ir_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    InlineLoops(),
    EliminateIdentities(),
    ir_passes.DeduplicateInitializersPass(),
    DropLoopState(),
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


def simplify_apart(
    model: ir.Model, timeout: float, memory_limit: float | None, largest: int
) -> ir.Model:
    """Run onnxsim in a process of its own, without the fusions that are ours.

    Args:
        model: stays as it is.
        timeout: seconds after which the process is killed.
        memory_limit: GiB of address space it may use, None for no limit.
        largest: bytes a folded constant may have.

    Raises:
        CheckError: it failed, was killed, removed nothing, wrote something that does not load, or
            must not be run because the model draws random numbers: it merges independent draws.
        MissingDependencyError: onnxsim is not installed.
    """
    drawing = sorted({n.op_type for _, graph in files.graphs(model) for n in graph} & RANDOM)
    if drawing:
        raise CheckError(f"onnxsim would merge independent draws of {', '.join(drawing)}")
    if any(isinstance(value.type, ir.OptionalType) for value in model.graph.inputs):
        raise CheckError("onnxsim hangs on optional inputs")
    with tempfile.TemporaryDirectory(prefix="advconv-") as folder:
        source, target = Path(folder, "in.onnx"), Path(folder, "out.onnx")
        files.save(model, source)
        limit = str(int((memory_limit or 0) * 2**30))
        # -P: a file in the current directory must not shadow a module.
        command = [sys.executable, "-P", "-m", __name__]
        command += [str(source), str(target), limit, str(largest)]
        path = os.pathsep.join(filter(None, [_PACKAGE_ROOT, os.environ.get("PYTHONPATH")]))
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
                env={**os.environ, "PYTHONPATH": path},
            )
        except subprocess.TimeoutExpired as error:
            raise CheckError(f"onnxsim took longer than {timeout:.0f} s and was stopped") from error
        if done.returncode == MissingDependencyError.exit_status:
            raise MissingDependencyError("onnxsim is not installed; pip install onnxsim")
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise CheckError(f"onnxsim ended with status {done.returncode}: {last[:200]}")
        try:
            result = files.load(target)
        except InputError as error:
            raise CheckError(f"onnxsim wrote no model that loads: {error}") from error
    if files.count_nodes(result) >= files.count_nodes(model):
        raise CheckError("onnxsim removes no node")
    _restore_metadata(model, result)
    return result


def _restore_metadata(model: ir.Model, result: ir.Model) -> None:
    """Give back what is noted on the model, the graph and on named nodes and values, no more."""
    result.metadata_props.clear()  # onnxsim tells its own story there
    result.metadata_props.update(model.metadata_props)
    result.doc_string = model.doc_string
    result.graph.metadata_props.update(model.graph.metadata_props)
    nodes = {(node.name, node.op_type): node for graph in model.graphs() for node in graph}
    values = {value.name: value for graph in model.graphs() for value in _values(graph)}
    for graph in result.graphs():
        for node in graph:
            old = nodes.get((node.name, node.op_type))
            if old is not None:
                hand_on(old, node)
        for value in _values(graph):
            if value.name in values:
                hand_on(values[value.name], value)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _run_onnxsim(source: str, target: str, memory_limit: int, largest: int) -> int:
    # It imports torch where it finds it, for functions not used here: three more seconds.
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import onnxsim  # noqa: PLC0415 - only this process needs it, and it takes a second
    except ImportError:
        return MissingDependencyError.exit_status
    if memory_limit:
        resource.setrlimit(resource.RLIMIT_AS, (memory_limit, memory_limit))
    simplified, _ = onnxsim.simplify(
        source,
        check_n=0,
        skipped_optimizers=list(_OURS),
        include_subgraph=True,
        tensor_size_threshold=f"{largest}B",
    )
    ir.save(ir.from_proto(simplified), target, format="protobuf")
    return 0


if __name__ == "__main__":
    sys.exit(_run_onnxsim(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
