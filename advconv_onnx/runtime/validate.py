"""Whether two models compute the same, and on what evidence.

Both run in ONNX Runtime on seeded inputs of several shapes and distributions. The judge is the
original in float64 where that is possible, else the original in ONNX Runtime. An output that is
constant or saturated proves nothing; then a tensor inside both models is compared as well.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from advconv_onnx import model as files
from advconv_onnx.errors import CheckError
from advconv_onnx.records import TensorCheck, Validation
from advconv_onnx.runtime.difference import Difference
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.inputs import Sample, runnable_samples
from advconv_onnx.runtime.reference import Reference
from advconv_onnx.runtime.session import open_session

Array = NDArray[Any]

_ALL_EXACT = 1 << 18
"""Up to this many input elements every sample of a shape is run in float64, above only one."""

_MOST_EXACT = 1 << 21
"""Samples with more input elements than this are not run in float64: numpy would take minutes."""

_INNER_TENSORS = 32
"""How many tensors at once are taken out of a model; bounds the memory they need."""

_LAYER_SAMPLES = 3
"""How many samples all layers are compared on: those of the first shape."""

_NEAREST_TENSORS = 4
"""How many stand-ins for an output are compared at once: mostly the nearest will do."""

_BOUNDS = {"Sigmoid": (0.0, 1.0), "HardSigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0), "Tanh": (-1, 1)}
"""Operators that saturate, and the values they saturate at."""

_TRANSPARENT = frozenset(
    ("Cast", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
)
"""Operators through which a saturated tensor stays one."""

_LARGE = 1 << 29
"""Bytes of weights above which memory is spared: one model at a time, and no copies of weights."""

_MOST_TIES = 1e-3
"""Largest part of an integer output that may differ as ties of what it was computed from."""


def gather(
    original: ir.Model,
    *,
    seed: int = 0,
    threads: int | None = None,
    data: Mapping[str, Array] | None = None,
    float64: bool = True,
) -> Evidence:
    """Draw samples and run the original on them in float64: what any candidate is judged by.

    Args and errors are those of ``validate``.
    """
    sparing = files.weight_bytes(original) > _LARGE
    samples = runnable_samples(original, seed=seed, threads=threads, data=data, sparing=sparing)
    notes: list[str] = []
    exact = _run_exactly(original, samples, notes) if float64 else None
    return Evidence(samples, exact, tuple(notes), sparing)


def validate(
    original: ir.Model,
    candidate: ir.Model,
    *,
    max_error: float = 1e-4,
    seed: int = 0,
    provider: str = "cpu",
    threads: int | None = None,
    data: Mapping[str, Array] | None = None,
    layers: bool = False,
    float64: bool = True,
    evidence: Evidence | None = None,
) -> Validation:
    """Compare two models in value, shape and type of every output.

    Args:
        original: the model to trust, run on the CPU.
        candidate: the model to judge, run on ``provider``. It keeps the names of inputs and
            outputs; an inner value of the same name is taken to mean the same.
        max_error: largest difference accepted, relative to the range of the tensor's values.
        seed: same seed, same inputs.
        provider: execution provider of the candidate.
        threads: intra-op threads of both; None for one per physical core.
        data: arrays for inputs, used as they are.
        layers: also compare every tensor that both models name, and note the first that differs.
        float64: let the original in float64 judge where it can; False is quicker.
        evidence: gathered before from the same original with the same seed and data.

    Returns:
        A failed validation, with a note that says why, also when the candidate does not load or
        run, and when nothing that could tell the models apart could be compared.

    Raises:
        CheckError: the original does not load, or fails on values of a shape it runs with.
        InputError: no inputs could be found that the original runs with.
    """
    if evidence is None:
        evidence = gather(original, seed=seed, threads=threads, data=data, float64=float64)
    plain = {"graph_optimizations": not evidence.sparing, "prepacking": not evidence.sparing}
    comparison = _Comparison(
        trusted=_Session(original, threads=threads, **plain),
        judged=_Session(
            candidate, provider=provider, threads=threads, **plain if provider == "cpu" else {}
        ),
        exact=evidence.exact,
        samples=evidence.samples,
        max_error=max_error,
        apart=evidence.sparing,
    )
    notes = list(_different_interface(original, candidate))
    if notes:
        return comparison.result((), notes, passed=False)
    if evidence.sparing:
        notes.append("compared without ONNX Runtime's own optimizations, which copy large weights")
    notes += evidence.notes
    return _validate(original, candidate, comparison, notes, layers=layers)


def validate_run(
    original: ir.Model,
    run: Callable[[Mapping[str, Array]], dict[str, Array]],
    *,
    evidence: Evidence,
    max_error: float = 1e-4,
    threads: int | None = None,
) -> Validation:
    """Compare a model with whatever answers in its place, such as a file of another format.

    Only outputs can be compared; where one is constant or saturated, nothing is proved.

    Args:
        original: the model to trust, run on the CPU.
        run: returns the outputs by name for one sample's inputs, or raises CheckError.
        evidence: gathered from the original.
        max_error: largest difference accepted, relative to the range of the tensor's values.
        threads: intra-op threads of the original; None for one per physical core.
    """
    comparison = _Comparison(
        trusted=_Session(original, threads=threads),
        judged=_Answers(run),
        exact=evidence.exact,
        samples=evidence.samples,
        max_error=max_error,
    )
    return _validate(original, None, comparison, list(evidence.notes), layers=False)


_QUANTIZING = frozenset(("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv"))


def usual_error(model: ir.Model) -> float:
    """Error of an output, relative to its range, that the rounding of a whole network explains.

    1e-4; 5e-3 where weights are float16: ten times the half unit of its last place; 2e-2 where
    tensors are quantized to 8 bits: a value between two steps falls to either, and a step is 4e-3.
    """
    if any(node.op_type in _QUANTIZING for node in model.graph.all_nodes()):
        return 2e-2
    weights = (value for graph in model.graphs() for value in graph.initializers.values())
    return 5e-3 if any(weight.dtype == ir.DataType.FLOAT16 for weight in weights) else 1e-4


def validate_runtime(
    model: ir.Model,
    *,
    max_error: float = 1e-4,
    seed: int = 0,
    provider: str = "cpu",
    threads: int | None = None,
    data: Mapping[str, Array] | None = None,
    layers: bool = False,
) -> Validation:
    """Compare a model in ONNX Runtime with the same model in float64.

    Where float64 is impossible, the comparison is with ONNX Runtime without graph optimizations.
    Arguments, result and errors are those of ``validate``.
    """
    plain = _Session(model, threads=threads, graph_optimizations=False)
    samples = runnable_samples(model, seed=seed, threads=threads, data=data)
    notes: list[str] = []
    exact = _run_exactly(model, samples, notes)
    if exact is None:
        notes.append("compared with ONNX Runtime without graph optimizations instead")
    else:
        samples = tuple(sample for sample in samples if id(sample) in exact.outputs)
    comparison = _Comparison(
        trusted=exact.reference if exact else plain,
        judged=_Session(model, provider=provider, threads=threads),
        exact=None,
        samples=samples,
        max_error=max_error,
    )
    return _validate(model, model, comparison, notes, layers=layers)


@dataclasses.dataclass(frozen=True, slots=True)
class Evidence:
    """What candidates are judged by.

    Attributes:
        samples: inputs of several shapes and distributions.
        exact: the original in float64 on them, if that is possible.
        notes: on which of them it is not.
        sparing: weights are so large that memory is spared.
    """

    samples: tuple[Sample, ...]
    exact: _Exact | None
    notes: tuple[str, ...]
    sparing: bool


class _Runner(Protocol):
    def run(
        self, inputs: Mapping[str, Array], tensors: Sequence[str] | None = None
    ) -> dict[str, Array]: ...


class _Session:
    """A model in ONNX Runtime that can also return values from inside its main graph."""

    def __init__(self, model: ir.Model, **options: Any) -> None:
        self._model = model
        self._options = options
        self._opened: tuple[tuple[str, ...], ort.InferenceSession] | None = None

    def open(self, tensors: Sequence[str] | None = None) -> ort.InferenceSession:
        wanted = tuple(tensors or _output_names(self._model))
        if self._opened is None or self._opened[0] != wanted:
            self._opened = wanted, open_session(_expose(self._model, wanted), **self._options)
        return self._opened[1]

    def run(
        self, inputs: Mapping[str, Array], tensors: Sequence[str] | None = None
    ) -> dict[str, Array]:
        return run_session(self.open(tensors), inputs)

    def close(self) -> None:
        """Free the session's memory; the next run opens another."""
        self._opened = None


@dataclasses.dataclass(frozen=True, slots=True)
class _Answers:
    """What is not known to be a model: it has outputs only."""

    answer: Callable[[Mapping[str, Array]], dict[str, Array]]

    def run(
        self, inputs: Mapping[str, Array], tensors: Sequence[str] | None = None
    ) -> dict[str, Array]:
        return self.answer(inputs)

    def close(self) -> None:
        """Nothing is held."""


def _expose(model: ir.Model, tensors: tuple[str, ...]) -> ir.Model:
    """Make values of the main graph its outputs, on a copy unless they all are outputs."""
    if set(tensors) <= set(_output_names(model)):
        return model
    copy = model.clone()
    values = {value.name: value for node in copy.graph for value in node.outputs}
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(values[name] for name in tensors)
    return copy


def _output_names(model: ir.Model) -> tuple[str, ...]:
    return tuple(value.name or "" for value in model.graph.outputs)


def _different_interface(original: ir.Model, candidate: ir.Model) -> Iterator[str]:
    for what, ours, theirs in (
        ("inputs", original.graph.inputs, candidate.graph.inputs),
        ("outputs", original.graph.outputs, candidate.graph.outputs),
    ):
        wanted, found = ({value.name or "" for value in values} for values in (ours, theirs))
        if wanted != found:
            missing, extra = ", ".join(sorted(wanted - found)), ", ".join(sorted(found - wanted))
            yield f"the {what} have other names: missing {missing or 'none'}, new {extra or 'none'}"


@dataclasses.dataclass(frozen=True, slots=True)
class _Exact:
    """The trusted model in float64.

    Attributes:
        outputs: its outputs by the identity of the sample, for those samples it was run on.
    """

    reference: Reference
    outputs: Mapping[int, Mapping[str, Array]]

    def values(self, sample: Sample, tensors: tuple[str, ...]) -> Mapping[str, Array]:
        """Return the named values, or nothing for a sample that is not run in float64."""
        known = self.outputs.get(id(sample))
        if known is None or known.keys() >= set(tensors):
            return known or {}
        return self.reference.run(sample.inputs, tensors)


def _run_exactly(model: ir.Model, samples: Sequence[Sample], notes: list[str]) -> _Exact | None:
    """Run samples in float64, and note those for which that is impossible."""
    large = dict.fromkeys(s.shape for s in samples if _elements(s) > _MOST_EXACT)
    if large:
        notes.append(f"too large for the float64 reference: {'; '.join(large)}")
    last = {sample.shape: sample for sample in samples if sample.shape not in large}
    chosen = [s for s in samples if s is last.get(s.shape) or _elements(s) <= _ALL_EXACT]
    outputs: dict[int, Mapping[str, Array]] = {}
    refused: set[str] = set()
    try:
        reference = Reference(model) if chosen else None
    except CheckError as error:
        notes.append(str(error))
        return None
    for sample in chosen:
        if reference is None or sample.shape in refused:
            continue
        try:
            outputs[id(sample)] = reference.run(sample.inputs)
        except CheckError as error:
            refused.add(sample.shape)
            notes.append(f"{sample.shape}: {error}")
    return _Exact(reference, outputs) if reference and outputs else None


def _elements(sample: Sample) -> int:
    return sum(array.size for array in sample.inputs.values())


@dataclasses.dataclass(slots=True)
class _Comparison:
    """Two models and the inputs to compare them on.

    Attributes:
        exact: the trusted model in float64, if that is possible.
        apart: only one of the two models is in memory at a time.
    """

    trusted: _Runner
    judged: _Session | _Answers
    exact: _Exact | None
    samples: tuple[Sample, ...]
    max_error: float
    apart: bool = False

    def measure(
        self, values: Sequence[ir.Value], *, logarithms: bool = False
    ) -> dict[str, Difference]:
        """Compare tensors, or their logarithms, on all samples."""
        found = {
            value.name or "": Difference(None if logarithms else _bounds(value)) for value in values
        }
        typed = isinstance(self.trusted, _Session)
        for sample, want, got in self._runs(tuple(found)) if found else ():
            if isinstance(got, CheckError):
                for difference in found.values():
                    difference.problem = f"cannot be computed for {sample.shape}: {got}"
                break
            exact = self.exact.values(sample, tuple(found)) if self.exact else {}
            for value in values:
                name = value.name or ""
                result = got[name] if value.is_graph_output() else _like(got[name], want[name])
                three = want[name], result, exact.get(name)
                found[name].add(*(_logarithms(*three) if logarithms else three), typed=typed)
        return found

    def _runs(
        self, names: tuple[str, ...]
    ) -> Iterator[tuple[Sample, dict[str, Array], dict[str, Array] | CheckError]]:
        """Both models' values for each sample: those of one at a time, or one model at a time."""
        if not self.apart:
            for sample in self.samples:
                yield sample, self.trusted.run(sample.inputs, names), self._judge(sample, names)
            return
        wanted = [self.trusted.run(sample.inputs, names) for sample in self.samples]
        if isinstance(self.trusted, _Session):
            self.trusted.close()
        for sample, want in zip(self.samples, wanted, strict=True):
            yield sample, want, self._judge(sample, names)
        self.judged.close()

    def _judge(self, sample: Sample, names: tuple[str, ...]) -> dict[str, Array] | CheckError:
        try:
            return self.judged.run(sample.inputs, names)
        except CheckError as error:
            return error

    def result(
        self, checks: Sequence[TensorCheck], notes: Sequence[str], *, passed: bool
    ) -> Validation:
        shapes = tuple(dict.fromkeys(sample.shape for sample in self.samples))
        return Validation(
            passed, self.max_error, tuple(checks), len(self.samples), shapes, tuple(notes)
        )


def _like(got: Array, want: Array) -> Array:
    """Give an inner tensor the shape it had: simplifiers drop dimensions of size 1 inside."""
    is_array = isinstance(got, np.ndarray) and isinstance(want, np.ndarray)
    return got.reshape(want.shape) if is_array and got.size == want.size else got


def _logarithms(want: Array, got: Array, exact: Array | None) -> tuple[Array, Array, Array | None]:
    """Of probabilities, down to where their type has all of its digits."""
    smallest = max(1e-30, float(np.finfo(want.dtype).tiny))

    def of(array: Array) -> Array:
        logarithms: Array = np.log(np.maximum(array.astype(np.float64), smallest))
        return logarithms

    return of(want), of(got), None if exact is None else of(exact)


def _bounds(value: ir.Value) -> tuple[float, float] | None:
    return _BOUNDS.get(_maker(value))


def _maker(value: ir.Value) -> str:
    """The operator that makes a tensor's values, wherever they are moved to then."""
    node = value.producer()
    while node is not None and node.op_type in _TRANSPARENT and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node.op_type if node is not None else ""


def _validate(
    original: ir.Model,
    candidate: ir.Model | None,
    comparison: _Comparison,
    notes: list[str],
    *,
    layers: bool,
) -> Validation:
    shared = [] if candidate is None else _shared_tensors(original, candidate)
    measured = comparison.measure(original.graph.outputs)
    checks: list[TensorCheck] = []
    passed = True
    for output in original.graph.outputs:
        name = output.name or ""
        agrees = _check(name, measured[name], comparison.max_error, checks, notes)
        reason = _weakness(measured[name], comparison.max_error)
        if agrees and reason and _depends_on_input(output):
            inner = _stand_in(output, shared, comparison)
            notes.append(
                f"output '{name}' {reason}; "
                + (
                    f"{inner[0]} was compared as well"
                    if inner
                    else "both models name no inner tensor to compare instead: nothing is proved; "
                    "give inputs that the output reacts to with --data FILE.npz"
                )
            )
            agrees = inner is not None and _check(
                *inner[1:], comparison.max_error, checks, notes, stands_for=name
            )
        passed = passed and agrees
    if layers:
        notes.append(_first_difference(shared, comparison))
    return comparison.result(checks, notes, passed=passed)


def _check(
    name: str,
    difference: Difference,
    max_error: float,
    checks: list[TensorCheck],
    notes: list[str],
    stands_for: str = "",
) -> bool:
    """Record one compared tensor; return whether the models agree in it, ties left aside."""
    what = f"inner tensor '{name}'" if stands_for else f"output '{name}'"
    if difference.problem:
        notes.append(f"{what} {difference.problem}")
        return False
    if not difference.is_judged_exactly(max_error):
        notes.append(
            f"{what}: the original itself is {difference.rounding / difference.scale:.1e} away "
            "from float64, so the two models were compared with each other"
        )
    error = difference.error(max_error)
    checks.append(TensorCheck(name, error, difference.range, stands_for))
    return not difference.differs(max_error) or _may_be_ties(difference, max_error)


def _may_be_ties(difference: Difference, max_error: float) -> bool:
    return not difference.is_float and 0 < difference.error(max_error) <= _MOST_TIES


def _weakness(difference: Difference, max_error: float) -> str:
    """Say why agreement in an output is not evidence enough; "" if it is."""
    if difference.is_degenerate:
        return "is (nearly) constant or saturated, which proves nothing"
    if _may_be_ties(difference, max_error):
        return f"differs in {difference.changed} of {difference.elements} integers, maybe ties"
    return ""


def _depends_on_input(output: ir.Value) -> bool:
    return any(value.is_graph_input() for value in _upstream(output))


def _upstream(value: ir.Value) -> Iterator[ir.Value]:
    """Yield a value and everything it is computed from, nearest first."""
    seen = {value}
    waiting = deque([value])
    while waiting:
        yield (value := waiting.popleft())
        node = value.producer()
        fresh = [v for v in _reads(node) if v not in seen] if node is not None else []
        seen.update(fresh)
        waiting.extend(dict.fromkeys(fresh))


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what a node reads, its bodies included."""
    yield from filter(None, node.inputs)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            body = attribute.as_graph()
            yield from body.outputs
            for inner in body.all_nodes():
                yield from filter(None, inner.inputs)


def _shared_tensors(original: ir.Model, candidate: ir.Model) -> list[ir.Value]:
    """Values of the original, in order, that its inputs reach and the candidate has too."""
    common = {value.name for node in candidate.graph for value in node.outputs}
    common -= {"", None}
    reached = set(original.graph.inputs)
    shared = []
    for node in original.graph:
        if not reached.isdisjoint(_reads(node)):
            reached.update(node.outputs)
            shared += [value for value in node.outputs if value.name in common]
    return shared


def _stand_in(
    output: ir.Value, shared: Sequence[ir.Value], comparison: _Comparison
) -> tuple[str, str, Difference] | None:
    """Find the inner tensor nearest to an output that can tell the two models apart.

    Where nothing inside can be seen, probabilities of a Softmax stand for the scores: one near 0
    has as many digits as one in the middle, and its logarithm shows them. (A Sigmoid's has not:
    ONNX Runtime computes it as a difference from a half.)
    """
    usable = {value for value in shared if not value.is_graph_output()}
    nearest = itertools.islice((v for v in _upstream(output) if v in usable), _INNER_TENSORS)
    for values in _batches(tuple(nearest), _NEAREST_TENSORS):
        for name, difference in comparison.measure(values).items():
            if difference.problem or (difference.is_float and not difference.is_degenerate):
                return f"inner tensor '{name}'", name, difference
    if _maker(output) != "Softmax":
        return None
    ((name, difference),) = comparison.measure([output], logarithms=True).items()
    is_telling = not difference.problem and not difference.is_degenerate
    return ("its logarithm", name, difference) if is_telling else None


def _batches(values: Sequence[ir.Value], size: int) -> Iterator[Sequence[ir.Value]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _first_difference(shared: Sequence[ir.Value], comparison: _Comparison) -> str:
    """Name the first tensor, in the graph's order, in which the two models differ."""
    limit = comparison.max_error
    few = comparison.samples[:_LAYER_SAMPLES]
    comparison = dataclasses.replace(comparison, samples=few)
    for values in _batches(shared, _INNER_TENSORS):
        for value, difference in zip(values, comparison.measure(values).values(), strict=True):
            if difference.differs(limit):
                node = value.producer()
                what = difference.problem or f"differs by {difference.error(limit):.1e}"
                where = f" ({node.op_type} '{node.name}')" if node is not None else ""
                return f"first tensor beyond max_error: '{value.name}'{where} {what}"
    return f"all {len(shared)} tensors that both models name agree for {few[0].shape}"
