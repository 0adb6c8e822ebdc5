"""ONNX Runtime's own format, for builds of it that hold only the operators a model needs.

The graph is written as ONNX Runtime has optimized it, by default without the layouts that fit only
the processor it was optimized on; files of this format get no others when they are loaded, so that
they can be slower than ONNX here. Beside it goes the list of operators that a minimal build needs:
https://onnxruntime.ai/docs/build/custom.html
"""

from __future__ import annotations

import dataclasses
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
from advconv_onnx.exporters import options
from advconv_onnx.quiet import quiet
from advconv_onnx.records import Artifact
from advconv_onnx.runtime.engine import create_session, run_session
from advconv_onnx.runtime.inputs import largest
from advconv_onnx.runtime.timing import measure
from advconv_onnx.runtime.validate import Evidence

_LARGEST = 2**31
"""Bytes that the format's offsets can reach."""


_SECONDS = 5.0
"""Time for the measurement beside ONNX."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(options.Options):
    """Also for ONNX Runtime's format.

    Attributes:
        this_processor: keep the layouts of this processor; others may not load the file.
    """

    this_processor: bool = False


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
        _write(original, made, asked)
        with (
            warnings.catch_warnings(action="ignore", category=ResourceWarning),
            quiet("ort_format_model.utils"),
        ):
            # ONNX Runtime's own tool leaves the file it reads to the garbage collector.
            create_config_from_models([made], Path(folder, "operators.config"), False)
        announce("validating")
        session = create_session(str(made), str(out), threads=asked.threads)
        found = asked.prove(original, lambda sample: run_session(session, sample), evidence)
        announce("measuring")
        note = _beside_onnx(made, evidence, asked)
        announce("writing")
        files.write_bytes(target, made.read_bytes())
        files.write_bytes(config, Path(folder, "operators.config").read_bytes())
    return options.artifact("ort", (target, config), found, notes=(note,))


def _write(model: ir.Model, path: Path, asked: Options) -> None:
    if files.weight_bytes(model) >= _LARGEST:
        raise CheckError("ONNX Runtime's format holds less than 2 GiB; keep the model in ONNX")
    source = path.with_suffix(".onnx")
    files.save(model, source)
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.optimized_model_filepath = str(path)
    levels = ort.GraphOptimizationLevel
    # Beyond EXTENDED come layouts of the processor at hand.
    settings.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if asked.this_processor else levels.ORT_ENABLE_EXTENDED
    )
    settings.add_session_config_entry("session.save_model_format", "ORT")
    try:
        ort.InferenceSession(str(source), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # what ONNX Runtime raises has no base of its own
        reason = " ".join(str(error).split())
        raise CheckError(f"ONNX Runtime does not convert the model: {reason}") from error


def _beside_onnx(made: Path, evidence: Evidence, asked: Options) -> str:
    """What the file costs here that ONNX does not, measured in pairs."""
    measured = measure(
        {"onnx": made.with_suffix(".onnx"), "ort": made},
        largest(evidence.samples).inputs,
        threads=asked.threads,
        seed=asked.seed,
        time_limit=_SECONDS,
    )
    if "ort" in measured.failures:
        raise CheckError(f"nothing was written: {measured.failures['ort']}")
    ratio = measured.timings[1].speedup
    advice = "" if asked.this_processor else "; --this-processor keeps layouts that fit it"
    return (
        f"here it runs {ratio.median:.2f} times as fast ({ratio.low:.2f} - {ratio.high:.2f}) as "
        f"the ONNX file, for which ONNX Runtime chooses layouts when it is loaded{advice}"
    )
