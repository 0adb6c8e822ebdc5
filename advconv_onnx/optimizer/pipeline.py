"""``optimize``: from a model file to an equal one that was measured not to be slower."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx.errors import InputError
from advconv_onnx.inspection import inspect
from advconv_onnx.optimizer.decide import Trial, decide
from advconv_onnx.optimizer.options import Options
from advconv_onnx.optimizer.rewriting import Rewriting
from advconv_onnx.records import ModelSummary, Report
from advconv_onnx.runtime.engine import resolve_threads
from advconv_onnx.runtime.inputs import runnable_samples
from advconv_onnx.runtime.providers import device, require


def optimize(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> Report:
    """Write an equal and, with level "search", measured faster version of a model.

    Args:
        model: path of an ONNX file, which is never modified.
        out: where the result goes; written whole or not at all.
        progress: called with the name of each stage as it begins.
        options: the fields of ``Options``: inputs, provider, threads, level, max_error, max_growth,
            time_limit, memory_limit, data, seed.

    Returns:
        What was done, on what evidence, and how fast the result is.

    Raises:
        InputError: the model, the output path or an option cannot be used.
        MissingDependencyError: the provider does not work here.
        CheckError: ONNX Runtime does not run the model, or nothing can be proved about it.
    """
    wanted = Options(**options)
    announce = progress or (lambda stage: None)
    deadline = time.monotonic() + (wanted.time_limit or float("inf"))
    source, target = Path(model), Path(out)
    require(wanted.provider)
    original = _open(source, target, wanted)
    rewriting = Rewriting(original, wanted, announce)
    candidate = rewriting.candidate()
    measurement = None
    if wanted.level == "search":
        with tempfile.TemporaryDirectory(prefix="advconv-") as folder:
            baseline = _baseline(source, wanted, Path(folder, "original.onnx"))
            samples = runnable_samples(
                original, seed=wanted.seed, threads=wanted.threads, data=wanted.data
            )
            largest = max(samples, key=lambda s: sum(a.size for a in s.inputs.values()))
            trial = Trial(baseline, largest.inputs, wanted, deadline, Path(folder))
            candidate, measurement = decide(trial, rewriting, candidate, announce)
    announce("writing")
    files.save(candidate.model, target)
    return Report(
        summarize(source, original),
        summarize(target, candidate.model),
        device(wanted.provider, resolve_threads(wanted.threads)),
        candidate.validation,
        candidate.rewrites,
        measurement,
    )


def _open(source: Path, target: Path, options: Options) -> ir.Model:
    original = files.load(source)
    files.check_domains(original, str(source))
    files.check_weights(original, str(source))
    files.override_inputs(original, options.inputs)
    inputs = [source, *files.data_files(original)]
    for output in (target, Path(f"{target}.data")):
        if output.exists() and any(map(output.samefile, inputs)):
            raise InputError(
                f"'{output}' is part of the input model, which is never modified; name another -o"
            )
    files.check_writable(target)
    return original


def _baseline(source: Path, options: Options, path: Path) -> Path:
    """The file to beat: the user's own, with nothing but the input shapes changed."""
    if not options.inputs:
        return source
    untouched = files.read(source)
    files.override_inputs(untouched, options.inputs)
    files.save(untouched, path)
    return path


def summarize(path: Path, model: ir.Model) -> ModelSummary:
    """Describe a model file in figures; ``model`` is its content."""
    found = inspect(model)
    parts = [path, *files.data_files(files.read(path))]
    return ModelSummary(
        path=str(path),
        sha256=files.sha256(path),
        nodes=files.count_nodes(model),
        parameters=found.parameters,
        macs=found.macs,
        bytes=sum(part.stat().st_size for part in parts),
        opset=files.opset(model),
    )
