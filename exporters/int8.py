"""8 bits wherever the outputs stay close to float64, float32 where they do not.

1. The model is fused first, so that what is folded into a layer is quantized with it.
2. A part of the data gives the ranges of all tensors (``calibration``); the rest judges.
3. Each layer alone is put in 8 bits, and its effect on the outputs is what it is ranked by.
4. All are put in 8 bits; where that is too much, those with the largest effect stay in float32.
5. The result is compared with the original in float64 and timed beside the fused float32 model.
   One that is slower is refused.

On x86 without VNNI, ONNX Runtime adds two products of uint8 and int8 in 16 bits, which saturates
(https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html). Weights of 7 bits
cannot, and lose accuracy. So a tiny model is run first: where it comes out wrong, weights have 7
bits, where it is exact, 8.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.exporters import options
from advconv_onnx.exporters.calibration import METHODS, Data, Sample, open_data, ranges
from advconv_onnx.exporters.quantization import (
    Effect,
    Quantization,
    activations,
    is_quantized,
    layers,
)
from advconv_onnx.optimizer.transaction import fuse
from advconv_onnx.preprocessing import Preprocessing
from advconv_onnx.records import Artifact, LayerPrecision, Measurement, Validation
from advconv_onnx.rewriter.fusions import all_rules
from advconv_onnx.rewriter.simplify import fold_constants, raise_opset, settle
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.inputs import largest
from advconv_onnx.runtime.session import open_session
from advconv_onnx.runtime.timing import measure
from advconv_onnx.runtime.validate import Evidence, gather, validate

Metric = Callable[[options.Run], float]
"""A score of whatever answers in the model's place: higher is better."""

_MAX_ERROR = 5e-2

_OPSET = 13
"""The first with a scale for each channel."""

_LARGEST_FOLDED = 1 << 16
"""Elements up to which an expression of constants is computed."""

_JUDGES = 8
"""Samples that are compared in float64; metrics have all that were kept to judge by."""

_MOST_EXACT = 1 << 17
"""Elements of inputs beyond which no further sample is run in float64."""

_RANKING = 2
"""Samples that layers are ranked on."""

_SECONDS = 10.0
"""Time for the measurement."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(options.Options):
    """Also for 8 bits.

    Attributes:
        max_error: 5e-2 if None and there is no metric; with a metric, no limit.
        data: as ``calibration.open_data`` takes it, which says how it is shared out.
        preprocessing: is done to pictures in a folder, whole or in part.
        calibration: "minmax", "entropy" or "percentile".
        metric: a score that may drop by ``max_drop``: "top1" for how often the class with the
            largest value in the first output is that in ``labels`` of the data, or without these
            that of the original; or what computes another.
        max_drop: largest drop of the metric accepted.
        weight_bits: 8 or 7; None for what is exact here.
        every_layer: also put layers in 8 bits that ONNX Runtime has no integer kernel for.
        allow_slower: write what is slower here, for other machines.
    """

    data: Any = None
    preprocessing: Preprocessing | Mapping[str, Any] | None = None
    calibration: str = "minmax"
    metric: Metric | str | None = None
    max_drop: float = 0.01
    weight_bits: int | None = None
    every_layer: bool = False
    allow_slower: bool = False

    def __post_init__(self) -> None:
        """Refuse values that no conversion can make sense of.

        Raises:
            InputError: naming the option.
        """
        super().__post_init__()
        if self.data is None:
            raise InputError(
                "--to int8 takes the ranges of tensors from real inputs, which drawn ones do not "
                "show; give some with --data, a folder or an .npz"
            )
        if self.calibration not in METHODS:
            raise InputError(
                f"--calibration '{self.calibration}' is unknown; use {', '.join(METHODS)}"
            )
        if isinstance(self.metric, str) and self.metric != "top1":
            raise InputError(f"--metric '{self.metric}' is unknown; use top1")
        if not 0 <= self.max_drop < math.inf:
            raise InputError(f"--max-drop must be a number, 0 or more, got {self.max_drop:g}")
        if self.weight_bits not in (None, 7, 8):
            raise InputError(f"--weight-bits {self.weight_bits} is unknown; use 7 or 8")

    def limit(self, model: ir.Model) -> float:
        """The error accepted for a model."""
        if self.max_error is not None:
            return float(self.max_error)
        return _MAX_ERROR if self.metric is None else math.inf


def export(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    progress: Callable[[str], None] | None = None,
    **wanted: Any,
) -> Artifact:
    """Write a model in 8 bits.

    Args:
        model: path of an ONNX file with weights in float32, which is never modified.
        out: where the result goes; written whole or not at all.
        progress: called with the name of each stage as it begins.
        wanted: the fields of ``Options``.

    Raises:
        InputError: a file cannot be read or written, or the model has nothing in float32.
        CheckError: not even one layer can be in 8 bits, or the result differs or is slower.
    """
    asked = Options(**wanted)
    announce = progress or (lambda stage: None)
    original = settle(asked.load(model, out))
    _check_layers(original, str(model), every=asked.every_layer)
    data = open_data(original, asked.data, asked.preprocessing, asked.seed)
    announce("fusing")
    fused = _fused(original, asked.seed)
    announce("running in float64")
    judge = _Judge.prepare(original, data, asked)
    announce("calibrating")
    found = ranges(fused, activations(fused), data.calibrating, asked.calibration, asked.threads)
    bits = asked.weight_bits or (8 if _is_exact() else 7)
    quantization = Quantization(fused, found, bits, every=asked.every_layer)
    announce("looking at each layer")
    samples = [sample.inputs for sample in judge.evidence.samples[:_RANKING]]
    effects = quantization.effects(samples, asked.threads)
    announce("looking for layers that must stay")
    kept = _kept(quantization, effects, judge)
    result = quantization.without(kept)
    validation = options.accept(judge.validate(result))
    announce("measuring")
    measurement, speed = _measured(fused, result, judge.evidence, asked)
    announce("writing")
    written = files.save(result, out)
    reasons = dict.fromkeys(quantization.impossible, "its values are not finite")
    reasons |= dict.fromkeys(kept, "the outputs would differ too much")
    decided = []
    for node in layers(fused, every=asked.every_layer):
        name = node.name or ""
        error = effects[name].largest if name in effects else math.inf
        decided.append(LayerPrecision(name, node.op_type, error, reasons.get(name, "")))
    notes = (
        *(*speed, *judge.notes(result), *data.notes),
        *(_bits_note(bits), *_left_out(fused, asked)),
    )
    return options.artifact(
        "int8",
        written,
        validation,
        layers=tuple(decided),
        notes=notes,
        measurement=measurement,
    )


def _check_layers(model: ir.Model, name: str, *, every: bool) -> None:
    if is_quantized(model):
        raise InputError(f"'{name}' is quantized already; convert the float32 model it was made of")
    if not layers(model, every=every):
        advice = "; --every-layer takes ConvTranspose too" if layers(model, every=True) else ""
        raise InputError(
            f"'{name}': nothing can be put in 8 bits: no layer with constant weights in float32, "
            f"outside of bodies, for which ONNX Runtime has an integer kernel{advice}"
        )
    if files.weight_bytes(model) > files.INLINE_LIMIT:
        raise CheckError(f"'{name}' has more than 1.9 GB of weights, which a quantizer cannot hold")


def _fused(model: ir.Model, seed: int) -> ir.Model:
    folded = fold_constants(model.clone(), _LARGEST_FOLDED)
    if files.opset(folded) < _OPSET:
        folded = raise_opset(folded, _OPSET)
    return settle(fuse(settle(folded), all_rules(), seed=seed).model)


@dataclasses.dataclass(frozen=True)
class _Judge:
    """Whether a model still does what the original does.

    Attributes:
        score: of the original, NaN without a metric.
    """

    original: ir.Model
    evidence: Evidence
    limit: float
    metric: Metric | None
    score: float
    asked: Options

    @classmethod
    def prepare(cls, original: ir.Model, data: Data, asked: Options) -> _Judge:
        metric, score = asked.metric, math.nan
        if metric is not None:
            run = _runner(original, asked.threads)
            metric = top1(data.judging, run) if isinstance(metric, str) else metric
            score = float(metric(run))
            if not math.isfinite(score):
                raise InputError(f"the metric of the original is {score}; it must be a number")
        evidence = _evidence(original, data, asked)
        return cls(original, evidence, asked.limit(original), metric, score, asked)

    def validate(self, model: ir.Model) -> Validation:
        found = validate(
            self.original,
            model,
            max_error=self.limit,
            threads=self.asked.threads,
            evidence=self.evidence,
        )
        if self.metric is None:
            return found
        dropped = self.score - self._score(model)
        # With a metric, outputs that show nothing on a few samples are no reason to refuse.
        close = all(check.max_relative <= self.limit for check in found.checks)
        return dataclasses.replace(found, passed=close and dropped <= self.asked.max_drop)

    def _score(self, model: ir.Model) -> float:
        assert self.metric is not None
        return float(self.metric(_runner(model, self.asked.threads)))

    def notes(self, model: ir.Model) -> tuple[str, ...]:
        if self.metric is None:
            return ()
        name = self.asked.metric if isinstance(self.asked.metric, str) else "metric"
        return (f"{name} is {self._score(model):.4g}, {self.score:.4g} in float32",)


def _runner(model: ir.Model, threads: int | None) -> options.Run:
    return functools.partial(run_session, open_session(model, threads=threads))


def top1(samples: Collection[Sample], original: options.Run) -> Metric:
    """How often the class with the largest value is the right one.

    Args:
        samples: whose labels are right; without labels, what the original says is.
        original: runs the original model.

    Raises:
        InputError: there are more or fewer labels than classes to compare with them.
    """
    known = [
        _classes(original(sample.inputs)) if sample.label is None else np.ravel(sample.label)
        for sample in samples
    ]

    def score(run: options.Run) -> float:
        right = []
        for sample, answers in zip(samples, known, strict=True):
            classes = _classes(run(sample.inputs))
            if classes.size != answers.size:
                raise InputError(
                    f"--metric top1: {answers.size} labels for {classes.size} classes of a sample"
                )
            right.append(np.mean(classes == answers))
        return float(np.mean(right))

    return score


def _classes(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Classes are along the second axis, or the last one of three: steps come before classes."""
    first = next(iter(outputs.values()))
    if first.ndim < 2:
        raise InputError("--metric top1: the first output has no axis of classes")
    return np.ravel(first.argmax(-1 if first.ndim == 3 else 1))


def _evidence(original: ir.Model, data: Data, asked: Options) -> Evidence:
    """Some of the samples to judge by, in float64 as far as there is time."""
    parts: list[Evidence] = []
    elements = 0
    for sample, _ in zip(data.judging, range(_JUDGES), strict=False):
        elements += sum(array.size for array in sample.inputs.values())
        exactly = not parts or elements <= _MOST_EXACT
        parts.append(gather(original, threads=asked.threads, data=sample.inputs, float64=exactly))
    exact = next((part.exact for part in parts if part.exact is not None), None)
    if exact is not None:
        known = [part.exact.outputs for part in parts if part.exact is not None]
        exact = dataclasses.replace(exact, outputs={k: v for one in known for k, v in one.items()})
    return Evidence(
        tuple(sample for part in parts for sample in part.samples),
        exact,
        tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        parts[0].sparing,
    )


def _is_exact() -> bool:
    """Whether ONNX Runtime does not saturate on this processor: see the top of this file."""
    text = (
        '<ir_version: 8, opset_import: ["" : 13]> g (uint8[4, 64] x, int8[64, 64] w) => '
        "(int32[4, 64] y) { y = MatMulInteger (x, w) }"
    )
    model = ir.from_proto(onnx.parser.parse_model(text))
    largest_values = {"x": np.full((4, 64), 255, np.uint8), "w": np.full((64, 64), 127, np.int8)}
    [y] = run_session(open_session(model), largest_values).values()
    return bool(np.all(y == 255 * 127 * 64))


def _kept(
    quantization: Quantization, effects: Mapping[str, Effect], judge: _Judge
) -> Sequence[str]:
    """The fewest layers that must stay in float32, those with the largest effect first.

    Raises:
        CheckError: all of them must.
    """
    ranked = sorted(effects, key=lambda name: -effects[name].mean)

    def suffices(number: int) -> bool:
        return judge.validate(quantization.without(ranked[:number])).passed

    if suffices(0):
        return ()
    low, high = 1, len(ranked)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle + 1, high)
    if low == len(ranked):
        limit = (
            f"{judge.limit:.0e} of an output's range; allow more with --max-error"
            if judge.metric is None
            else f"a drop of {judge.asked.max_drop:g}; allow more with --max-drop"
        )
        raise CheckError(f"no part of the model can be in 8 bits within {limit}")
    return ranked[:low]


def _measured(
    fused: ir.Model, result: ir.Model, evidence: Evidence, asked: Options
) -> tuple[Measurement, tuple[str, ...]]:
    """Time both.

    Raises:
        CheckError: the result is slower, and that is not allowed.
    """
    with tempfile.TemporaryDirectory(prefix="advconv-") as folder:
        models = {"float32": fused, "int8": result}
        paths = {name: Path(folder, f"{name}.onnx") for name in models}
        for name, path in paths.items():
            files.save(models[name], path)
        measured = measure(
            paths,
            largest(evidence.samples).inputs,
            threads=asked.threads,
            seed=asked.seed,
            time_limit=_SECONDS,
        )
    if "int8" in measured.failures:
        raise CheckError(f"nothing was written: {measured.failures['int8']}")
    speedup = measured.timings[1].speedup
    if speedup.high >= 1:
        note = "int8 is not measurably faster here than the fused float32 model"
        return measured, () if speedup.low > 1 else (note,)
    slower = (
        f"int8 is slower here than the fused float32 model: {speedup.median:.2f}x "
        f"({speedup.low:.2f} to {speedup.high:.2f})"
    )
    if not asked.allow_slower:
        raise CheckError(f"nothing was written: {slower}; --allow-slower writes it all the same")
    return measured, (f"{slower}; it was written as --allow-slower asks",)


def _left_out(model: ir.Model, asked: Options) -> tuple[str, ...]:
    number = len(layers(model, every=True)) - len(layers(model))
    if asked.every_layer or not number:
        return ()
    return (
        f"{number} ConvTranspose stay in float32, as ONNX Runtime has no integer kernel for them; "
        "--every-layer is for runtimes that have",
    )


def _bits_note(bits: int) -> str:
    if bits == 7:
        return "weights have 7 bits, which is exact on all processors"
    return (
        "weights have 8 bits: exact here, on ARM and on x86 with VNNI; on older x86 ONNX Runtime "
        "saturates, convert for them with --weight-bits 7"
    )
