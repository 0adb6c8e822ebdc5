"""ONNX Runtime's own format, for builds of it that hold only the operators a model needs.

The graph is written as ONNX Runtime has optimized it, but without the layouts that fit only the
processor it was optimized on. Beside it goes the list of operators that a minimal build needs:
https://onnxruntime.ai/docs/build/custom.html
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxruntime as ort
from onnxruntime.tools.ort_format_model import create_config_from_models

from advconv_onnx import model as files
from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.exporters.options import Options
from advconv_onnx.records import Artifact
from advconv_onnx.runtime.engine import create_session, run_session

_LARGEST = 2**31
"""Bytes that the format's offsets can reach."""


def export(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    progress: Callable[[str], None] | None = None,
    **wanted: Any,
) -> Artifact:
    """Write a model in ONNX Runtime's format, and ``OUT.required_operators.config``.

    Args:
        model: path of an ONNX file, which is never modified.
        out: path of the result, which ends in .ort: ONNX Runtime tells formats by the name.
        progress: called with the name of each stage as it begins.
        wanted: the fields of ``Options``.

    Raises:
        InputError: the file cannot be read or written, or ``out`` does not end in .ort.
        CheckError: ONNX Runtime cannot write it, or what it wrote computes something else.
    """
    asked = Options(**wanted)
    announce = progress or (lambda stage: None)
    target = Path(out)
    if target.suffix != ".ort":
        raise InputError(f"-o '{out}': ONNX Runtime knows its format by the name; end it in .ort")
    config = target.with_suffix(".required_operators.config")
    original = asked.load(model, target, config)
    announce("running in float64")
    evidence = asked.gather(original)
    with tempfile.TemporaryDirectory(prefix="advconv-") as folder:
        announce("converting")
        made = Path(folder, "model.ort")
        _write(original, made)
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            # ONNX Runtime's own tool leaves the file it reads to the garbage collector.
            create_config_from_models([made], Path(folder, "operators.config"), False)
        announce("validating")
        session = create_session(str(made), str(out), threads=asked.threads)
        found = asked.prove(original, lambda sample: run_session(session, sample), evidence)
        announce("writing")
        files.write_bytes(target, made.read_bytes())
        files.write_bytes(config, Path(folder, "operators.config").read_bytes())
    size = sum(path.stat().st_size for path in (target, config))
    return Artifact("ort", (str(target), str(config)), size, found)


def _write(model: ir.Model, path: Path) -> None:
    if files.weight_bytes(model) >= _LARGEST:
        raise CheckError("ONNX Runtime's format holds less than 2 GiB; keep the model in ONNX")
    source = path.with_suffix(".onnx")
    files.save(model, source)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path)
    # Beyond these come layouts of the processor at hand.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.save_model_format", "ORT")
    try:
        ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # what ONNX Runtime raises has no base of its own
        reason = " ".join(str(error).split())
        raise CheckError(f"ONNX Runtime does not convert the model: {reason}") from error
