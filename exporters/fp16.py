"""float16 wherever the outputs stay close to float64, float32 where they do not.

ONNX Runtime's CPU provider, on which a conversion is checked, computes most operators of float16 in
float32 and so hides what a device with real float16 arithmetic would do to them. So the check here
is on a copy in float32 that rounds to float16 whatever a device rounds: every tensor that a node of
float16 reads or writes, weights included. Sums inside an operator are not rounded, as devices keep
them in float32.

1. **Overflow.** Each node alone, on exact inputs: one that reaches values near the end of float16's
   range stays in float32.
2. **Error.** The whole, against the original in float64. Where it differs by more than is allowed,
   nodes stay in float32, those first whose rounding alone changes the outputs most: one run of the
   model for each node, in which only that one rounds.
3. The converted model is compared once more, in ONNX Runtime.

``onnxruntime.transformers.float16`` is not used: it also rounds between two nodes that must stay in
float32, and writes invalid models where bodies read what it converts (onnxruntime 1.32).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.exporters import options
from advconv_onnx.exporters.switches import Switches, alone, append
from advconv_onnx.records import Artifact, LayerPrecision, Validation
from advconv_onnx.rewriter.simplify import clean, settle
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.inputs import Sample
from advconv_onnx.runtime.session import open_session
from advconv_onnx.runtime.validate import Evidence, validate

_LARGEST = 65504.0
"""Of float16."""

_HEADROOM = 4.0
"""Other inputs than those tried may lead to larger values."""

_MARGIN = 0.7
"""Part of the error allowed that is used up: a device may round at other places."""

_AT_ONCE = 16
"""Nodes that are looked at in one run, whose outputs are all in memory."""

_SAMPLES = 3

_TYPED = frozenset(
    ("Cast", "CastLike", "ConstantOfShape", "EyeLike", "RandomNormal", "RandomUniform")
)
"""Operators whose output type does not follow from their inputs."""

_NARROW, _WIDE = ir.DataType.FLOAT16, ir.DataType.FLOAT

NO_GAIN = (
    "on CPUs of the x86 family float16 does not pay: ONNX Runtime computes it in float32, with "
    "conversions around; it is meant for GPUs and other accelerators"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(options.Options):
    """Also for mixed precision.

    Attributes:
        max_error: the default is ten times the half unit of float16's last place.
        float16_io: also have inputs and outputs in float16, which callers must know.
    """

    max_error: float = 5e-3
    float16_io: bool = False


def export(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    progress: Callable[[str], None] | None = None,
    **wanted: Any,
) -> Artifact:
    """Write a model in mixed precision.

    Args:
        model: path of an ONNX file with weights in float32, which is never modified.
        out: where the result goes; written whole or not at all.
        progress: called with the name of each stage as it begins.
        wanted: the fields of ``Options``.

    Raises:
        InputError: the file cannot be read or written, or has nothing in float32.
        CheckError: not even one node can be in float16, or the converted model differs.
    """
    asked = Options(**wanted)
    announce = progress or (lambda stage: None)
    original = settle(asked.load(model, out))
    nodes = _convertible(original)
    if not nodes:
        raise InputError(f"'{model}': no operator computes in float32; nothing can be converted")
    announce("running in float64")
    evidence = asked.gather(original)
    announce("looking at each layer")
    errors = dict(_errors(original, nodes, evidence.samples[:_SAMPLES], asked.threads))
    announce("looking for layers that must stay")
    kept = _kept(original, errors, evidence, asked)
    announce("converting")
    converted = _converted(original, kept)
    found = options.accept(_compared(original, converted, evidence, asked))
    if asked.float16_io:
        _narrow_interface(converted)
    announce("writing")
    written = files.save(converted, out)
    layers = tuple(
        LayerPrecision(node.name or "", node.op_type, errors[node], kept.get(node, ""))
        for node in nodes
    )
    return options.artifact("fp16", written, found, layers=layers, notes=(NO_GAIN,))


def _convertible(model: ir.Model) -> list[ir.Node]:
    """The nodes of the main graph that ONNX defines in float16 too, and that are in float32."""
    opset = files.opset(model)
    return [
        node
        for node in model.graph
        if not node.domain
        and node.op_type not in _TYPED
        and not list(files.bodies(node))
        and _narrow_inputs(node, opset)
        and all(map(_is_wide, node.outputs))
    ]


def _narrow_inputs(node: ir.Node, opset: int) -> list[int]:
    """The inputs that are in float32 and may be in float16: not the scales of a Resize."""
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    allowed = {
        constraint.type_param_str: constraint.allowed_type_strs
        for constraint in schema.type_constraints
    }
    last = len(schema.inputs) - 1
    kinds = (schema.inputs[min(i, last)].type_str for i in range(len(node.inputs)))
    return [
        index
        for index, (value, kind) in enumerate(zip(node.inputs, kinds, strict=True))
        if _is_wide(value) and "tensor(float16)" in allowed.get(kind, ())
    ]


def _is_wide(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == _WIDE


def _errors(
    model: ir.Model, nodes: Sequence[ir.Node], samples: Sequence[Sample], threads: int | None
) -> Iterator[tuple[ir.Node, float]]:
    """The error of each node alone, relative to the range of its outputs; infinite for overflow."""
    for start in range(0, len(nodes), _AT_ONCE):
        chosen = nodes[start : start + _AT_ONCE]
        doubled, pairs = _with_twins(model, [node.name or "" for node in chosen])
        session = open_session(doubled, threads=threads)
        error = dict.fromkeys(chosen, 0.0)
        for sample in samples:
            values = run_session(session, sample.inputs)
            for node, own in zip(chosen, pairs, strict=True):
                gaps = (_gap(values[exact], values[rounded]) for exact, rounded in own)
                overflows = any(_overflows(values[exact]) for exact, _ in own)
                error[node] = max([error[node], *gaps, float("inf") if overflows else 0.0])
        yield from error.items()


def _gap(exact: np.ndarray, rounded: np.ndarray) -> float:
    """Largest difference relative to the range; infinite where only one of both is finite."""
    finite = np.isfinite(exact)
    if not np.array_equal(finite, np.isfinite(rounded)):
        return float("inf")
    values = exact[finite].astype(np.float64)
    gap = float(np.abs(values - rounded[finite]).max(initial=0.0))
    return gap / (float(np.ptp(values)) or float(np.abs(values).max()) or 1.0) if gap else 0.0


def _overflows(exact: np.ndarray) -> bool:
    largest = np.abs(exact, where=np.isfinite(exact), out=np.zeros(exact.shape)).max(initial=0.0)
    return bool(largest * _HEADROOM > _LARGEST)


def _with_twins(
    model: ir.Model, names: Sequence[str]
) -> tuple[ir.Model, list[list[tuple[str, str]]]]:
    """A copy that also computes some nodes a second time in float16.

    Returns:
        The copy, whose outputs are those of the nodes, and for each node pairs of their names: the
        exact one and the rounded one.
    """
    copy = model.clone()
    by_name = {node.name: node for node in copy.graph}
    rounding, opset = _Rounding(copy.graph), files.opset(copy)
    copy.graph.outputs.clear()
    pairs = []
    for name in names:
        node = by_name[name]
        narrow = _narrow_inputs(node, opset)
        read = [rounding.of(v) if i in narrow else v for i, v in enumerate(node.inputs)]
        twin = ir.node(node.op_type, read, node.attributes, num_outputs=len(node.outputs))
        copy.graph.append(twin)
        own = []
        for exact, made in zip(node.outputs, twin.outputs, strict=True):
            made.name, made.type, made.shape = f"{exact.name} twin", exact.type, exact.shape
            rounded = rounding.of(made)
            copy.graph.outputs.extend([exact, rounded])
            own.append((exact.name or "", rounded.name or ""))
        pairs.append(own)
    copy.graph.sort()
    return copy, pairs


class _Rounding:
    """Makes nodes that round values of a graph to float16, once for each value."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._known: dict[ir.Value, ir.Value] = {}

    def of(self, value: ir.Value | None) -> ir.Value:
        assert value is not None
        if value not in self._known:
            half = append(self._graph, "Cast", [value], f"{value.name} half", to=_NARROW)
            rounded = append(self._graph, "Cast", [half], f"{value.name} rounded", to=_WIDE)
            rounded.type, rounded.shape = value.type, value.shape
            self._known |= {value: rounded, rounded: rounded}
        return self._known[value]


def _emulated(model: ir.Model, kept: Collection[str]) -> ir.Model:
    """A copy in float32 that rounds what nodes of float16 read and write."""
    copy = model.clone()
    rounding, opset = _Rounding(copy.graph), files.opset(copy)
    narrow = [node for node in _convertible(copy) if node.name not in kept]
    for node in narrow:
        for output in node.outputs:
            _replace(copy.graph, output, rounding.of)
    for node in narrow:
        for index in _narrow_inputs(node, opset):
            node.replace_input_with(index, rounding.of(node.inputs[index]))
    copy.graph.sort()
    return copy


def _replace(
    graph: ir.Graph,
    value: ir.Value,
    make: Callable[[ir.Value], ir.Value],
    unless: Collection[tuple[ir.Node, int]] = (),
) -> None:
    """Let all readers of a value, and the graph's outputs, have what is made of it instead."""
    readers = [use for use in value.uses() if tuple(use) not in unless]
    if not readers and not value.is_graph_output():
        return
    made = make(value)
    for reader, index in readers:
        reader.replace_input_with(index, made)
    _return_instead(graph, value, made)


def _return_instead(graph: ir.Graph, value: ir.Value, made: ir.Value) -> None:
    """Return another value under the name of an output, if it is one."""
    for index, output in enumerate(graph.outputs):
        if output is value:
            made.name, value.name = value.name, f"{value.name} inside"
            graph.outputs[index] = made


def _kept(
    model: ir.Model,
    errors: Mapping[ir.Node, float],
    evidence: Evidence,
    asked: Options,
) -> dict[ir.Node, str]:
    """The nodes that must stay in float32, and why.

    Raises:
        CheckError: all of them must.
    """
    stricter = dataclasses.replace(asked, max_error=asked.max_error * _MARGIN)
    overflowing = [node for node, error in errors.items() if not np.isfinite(error)]
    kept = dict.fromkeys(overflowing, "values near the end of the range of float16")

    def suffices(nodes: Sequence[ir.Node]) -> bool:
        names = {node.name or "" for node in (*overflowing, *nodes)}
        emulated = _emulated(model, names)
        return _compared(model, emulated, evidence, stricter).passed

    if suffices(()):
        return kept
    others = [node for node in errors if node not in kept]
    effects = _effects(model, others, evidence.samples[0], asked.threads)
    ranked = sorted(others, key=lambda node: -effects[node])
    # The smallest number that suffices, as more precision is taken not to make it worse.
    low, high = 1, len(ranked)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(ranked[:middle]) else (middle + 1, high)
    if low == len(ranked):
        raise CheckError(
            f"no part of the model can be in float16 within {asked.max_error:.0e} of an output's "
            "range; allow more with --max-error"
        )
    needed = _fewest(ranked[:low], suffices)
    return kept | dict.fromkeys(needed, "the outputs would differ too much")


def _fewest(
    nodes: Sequence[ir.Node], suffices: Callable[[Sequence[ir.Node]], bool]
) -> Sequence[ir.Node]:
    """Those that are still needed when halves, quarters and eighths of them are let go."""
    for parts in (2, 4, 8):
        size = -(-len(nodes) // parts)
        for start in reversed(range(0, len(nodes), size)):
            fewer = [*nodes[:start], *nodes[start + size :]]
            if suffices(fewer):
                nodes = fewer
    return nodes


def _effects(
    model: ir.Model, nodes: Sequence[ir.Node], sample: Sample, threads: int | None
) -> dict[ir.Node, float]:
    """What rounding each node alone changes in the outputs, relative to their range."""
    names = [node.name or "" for node in nodes]
    session = open_session(_with_switches(model, names), threads=threads)
    return {
        node: max(_gap(exact[name], found[name]) for name in exact)
        for node, (exact, found) in zip(
            nodes, alone(session, sample.inputs, len(nodes)), strict=True
        )
    }


def _with_switches(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy in which each node can be let round."""
    copy = model.clone()
    graph, rounding, opset = copy.graph, _Rounding(copy.graph), files.opset(copy)
    switches = Switches(graph, len(names))
    by_name = {node.name: node for node in graph}
    for index, name in enumerate(names):
        node = by_name[name]
        switch = switches.of(index, name)

        def switched(value: ir.Value, label: str, switch: ir.Value = switch) -> ir.Value:
            return switches.choose(value, rounding.of(value), switch, label)

        for i in _narrow_inputs(node, opset):
            value = node.inputs[i]
            assert value is not None
            node.replace_input_with(i, switched(value, f"{name} {i}"))
        for output in node.outputs:
            _replace(graph, output, lambda value: switched(value, value.name or ""))
    graph.sort()
    return copy


def _compared(
    original: ir.Model,
    candidate: ir.Model,
    evidence: Evidence,
    asked: Options,
) -> Validation:
    limits: dict[str, Any] = {"max_error": asked.max_error, "threads": asked.threads}
    return validate(original, candidate, evidence=evidence, **limits)


def _converted(model: ir.Model, kept: Collection[ir.Node]) -> ir.Model:
    """A copy in which all convertible nodes but some read and write float16."""
    copy = model.clone()
    graph, opset = copy.graph, files.opset(copy)
    names = {node.name for node in kept}
    narrow = [node for node in _convertible(copy) if node.name not in names]
    reads = {(node, index): None for node in narrow for index in _narrow_inputs(node, opset)}
    halves: dict[ir.Value, ir.Value] = {}
    for output in (output for node in narrow for output in node.outputs):
        output.type = ir.TensorType(_NARROW)
        halves[output] = output
        _replace(graph, output, lambda value: _cast(graph, value, _WIDE), reads)
    for node, index in reads:
        value = node.inputs[index]
        assert value is not None
        if value not in halves:
            halves[value] = _narrowed(graph, value)
        node.replace_input_with(index, halves[value])
    graph.sort()
    clean(copy)
    return copy


def _narrowed(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """A value of float32 in float16."""
    if value.const_value is None or value.is_graph_input():
        return _cast(graph, value, _NARROW)
    name = f"{value.name} half"
    array = value.const_value.numpy().astype(np.float16)
    half = ir.Value(
        name=name,
        shape=value.shape,
        type=ir.TensorType(_NARROW),
        const_value=ir.tensor(array, name=name),
    )
    graph.register_initializer(half)
    return half


def _cast(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    name = f"{value.name} {dtype.short_name()}"
    made = append(graph, "Cast", [value], name, to=dtype)
    made.type, made.shape = ir.TensorType(dtype), value.shape
    return made


def _narrow_interface(model: ir.Model) -> None:
    """Let the inputs and outputs of a converted model be in float16, in place."""
    graph = model.graph
    for x in filter(_is_wide, graph.inputs):
        x.type = ir.TensorType(_NARROW)
        _replace(graph, x, lambda value: _cast(graph, value, _WIDE))
    for index, y in enumerate(graph.outputs):
        if _is_wide(y):
            half = _cast(graph, y, _NARROW)
            half.name, y.name = y.name, half.name
            graph.outputs[index] = half
    graph.sort()
    for node in graph:
        source = node.inputs[0].producer() if node.op_type == "Cast" and node.inputs[0] else None
        own = source.inputs[0] if source is not None and source.op_type == "Cast" else None
        # To the wider type and back changes nothing.
        if own is None or not own.dtype == node.outputs[0].dtype == _NARROW:
            continue
        for reader, number in list(node.outputs[0].uses()):
            reader.replace_input_with(number, own)
        if own.producer() is not None:  # what the graph returns needs a node that makes it
            _return_instead(graph, node.outputs[0], own)
    clean(model)
