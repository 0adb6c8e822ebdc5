"""OpenVINO's own format: ``OUT.xml`` with the graph, and ``OUT.bin`` with the weights beside it.

The ONNX file is read by OpenVINO itself; its Python converter would send statistics to its makers,
and so would importing it, which is kept from doing so here. What was written is read back and
compared on the CPU in float32: left to itself OpenVINO computes in bfloat16 where it can.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx.errors import AdvconvError, CheckError, InputError, MissingDependencyError
from advconv_onnx.exporters import options
from advconv_onnx.records import Artifact
from advconv_onnx.runtime.engine import resolve_threads


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """Let imports not find the package that OpenVINO reports each import with."""
    name = "openvino_telemetry"
    known = name in sys.modules
    sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    try:
        yield
    finally:
        if not known:
            del sys.modules[name]


try:
    with _without_telemetry():
        import openvino
except ImportError as error:
    raise MissingDependencyError(
        f"--to openvino needs OpenVINO ({error}); pip install 'advconv-onnx[openvino]'"
    ) from error

_HALF_ERROR = 5e-3
"""Of an output's range: ten times the half unit of float16's last place."""

_TALK = re.compile(
    r"Exception from |Check '.*' failed at |FrontEnd API failed|Model wasn't fully|Summary:"
)
"""Lines of an error that say nothing about the model."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(options.Options):
    """Also for OpenVINO.

    Attributes:
        float16_weights: store weights in float16, half as large; what computes with them decides
            in which precision.
    """

    float16_weights: bool = False

    def limit(self, model: ir.Model) -> float:
        """The error accepted for a model, which is larger where weights are rounded."""
        if self.float16_weights and self.max_error is None:
            return _HALF_ERROR
        return float(super().limit(model))


def export(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    progress: Callable[[str], None] | None = None,
    **wanted: Any,
) -> Artifact:
    """Write a model in OpenVINO's format, as ``out`` and the weights beside it.

    Args:
        model: path of an ONNX file, which is never modified.
        out: path of the graph, which ends in .xml: OpenVINO tells formats by the name.
        progress: called with the name of each stage as it begins.
        wanted: the fields of ``Options``.

    Raises:
        InputError: the file cannot be read or written, or ``out`` does not end in .xml.
        CheckError: OpenVINO has no such layer, or what it wrote computes something else.
    """
    asked = Options(**wanted)
    announce = progress or (lambda stage: None)
    graph = Path(out)
    if graph.suffix != ".xml":
        raise InputError(f"-o '{out}': OpenVINO knows its format by the name; end it in .xml")
    weights = graph.with_suffix(".bin")
    original = asked.load(model, graph, weights)
    announce("running in float64")
    evidence = asked.gather(original)
    with files.staging_folder(graph) as folder:
        announce("converting")
        made = folder / "model.xml"
        with _told("does not convert the model"):
            files.save(original, folder / "model.onnx")
            converted = openvino.Core().read_model(folder / "model.onnx")
            openvino.save_model(converted, made, compress_to_fp16=asked.float16_weights)
        announce("validating")
        found = asked.prove(original, _runner(made, original, asked), evidence)
        announce("writing")
        # The weights first: a graph must never name weights that are not there yet.
        os.replace(made.with_suffix(".bin"), weights)
        os.replace(made, graph)
    return options.artifact("openvino", (graph, weights), found)


def _runner(graph: Path, original: ir.Model, asked: Options) -> options.Run:
    """What answers as the files do."""
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": resolve_threads(asked.threads),
    }
    with _told("does not load what it wrote"):
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(graph), "CPU", settings)
        names = [value.name or "" for value in original.graph.outputs]
        ports = {name: compiled.output(name) for name in names}

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with _told("does not run; sizes that fit are fixed with --input"):
            result = compiled(dict(inputs))
        return {name: result[port] for name, port in ports.items()}

    return run


@contextlib.contextmanager
def _told(failure: str) -> Iterator[None]:
    """Tell in one line what OpenVINO tells in many.

    Raises:
        CheckError: instead of what OpenVINO raises, which is of any type.
    """
    try:
        yield
    except AdvconvError:
        raise
    except Exception as error:
        lines = [line for line in str(error).splitlines() if not _TALK.match(line)]
        reason = " ".join(" ".join(lines).replace("-- ", "").split())
        raise CheckError(f"OpenVINO {failure}: {reason}") from error
