"""``optimize``: from a model file to an equal one that was measured not to be slower."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx.inspection import inspect
from advconv_onnx.optimizer.cache import Cache
from advconv_onnx.optimizer.decide import Trial, keep_forms, keep_fusions
from advconv_onnx.optimizer.options import Options
from advconv_onnx.optimizer.rewriting import Candidate, Rewriting
from advconv_onnx.optimizer.search import Search
from advconv_onnx.records import Measurement, ModelSummary, Report, Rewrite
from advconv_onnx.runtime.engine import resolve_threads
from advconv_onnx.runtime.inputs import largest_sample
from advconv_onnx.runtime.providers import device, require

_FOR_THE_WHOLE = 0.3
"""Part of a time limit that is kept for the model as a whole, when its forms have been timed."""


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
    if wanted.level == "search":
        candidate, measurement = _search(source, original, rewriting, wanted, deadline, announce)
    else:
        candidate, measurement = rewriting.candidate(), None
    announce("writing")
    written = files.save(candidate.model, target)
    return Report(
        summarize(source, original, (source, *files.data_files(original))),
        summarize(target, candidate.model, written),
        device(wanted.provider, resolve_threads(wanted.threads)),
        candidate.validation,
        candidate.rewrites,
        measurement,
    )


def _search(
    source: Path,
    original: ir.Model,
    rewriting: Rewriting,
    options: Options,
    deadline: float,
    announce: Callable[[str], None],
) -> tuple[Candidate, Measurement]:
    """The fastest model found, and how fast it is."""
    with (
        tempfile.TemporaryDirectory(prefix="advconv-") as folder,
        contextlib.closing(Cache(_situation(options))) as cache,
    ):
        # The file to beat is the user's own, with nothing but the input shapes changed.
        baseline = files.reshaped(source, options.inputs, Path(folder, "original.onnx"))
        inputs = largest_sample(
            original, seed=options.seed, threads=options.threads, data=options.data
        ).inputs
        data = files.data_files(original)
        trial = Trial(baseline, data, inputs, options, deadline, Path(folder), cache)
        fused = keep_fusions(trial, rewriting, announce)
        room = rewriting.room(fused.model)
        # The rest of the time is for measuring the whole.
        end = deadline - _FOR_THE_WHOLE * (options.time_limit or 0.0)
        search = Search(fused.model, inputs, options, end, room, cache, announce)
        search.run()
        candidate = keep_forms(trial, rewriting, fused, search, announce)
        if cache.problem:
            kept = Rewrite("keep_figures", (), "refused", cache.problem)
            candidate = dataclasses.replace(candidate, rewrites=(*candidate.rewrites, kept))
        announce("measuring again")
        # With fresh processes and another seed: this is the figure that is reported.
        return candidate, trial.measure(candidate, options.seed + 1)


def _situation(options: Options) -> str:
    """What a figure depends on beside the window it was taken in."""
    here = device(options.provider, resolve_threads(options.threads))
    version = importlib.metadata.version("advconv-onnx")
    memory = f"{options.memory_limit} GiB" if options.memory_limit else "any memory"
    threads = f"{here.threads} threads"
    parts = (here.provider, threads, memory, here.processor, here.onnxruntime, version)
    return ", ".join(parts)


def _open(source: Path, target: Path, options: Options) -> ir.Model:
    original = files.load_reshaped(source, options.inputs)
    if options.level == "search":
        files.check_domains(original, str(source))
    files.check_output(target, source, original)
    return original


def summarize(path: Path, model: ir.Model, parts: Iterable[Path]) -> ModelSummary:
    """Describe a model file in figures.

    Args:
        path: the file.
        model: its content.
        parts: the file itself and those that hold its data.
    """
    found = inspect(model)
    return ModelSummary(
        path=str(path),
        sha256=files.sha256(path),
        nodes=files.count_nodes(model),
        parameters=found.parameters,
        macs=found.macs,
        bytes=sum(part.stat().st_size for part in parts),
        opset=files.opset(model),
    )
