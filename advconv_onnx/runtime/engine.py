"""ONNX Runtime's sessions opened and run, its many kinds of error told in one line.

Imports neither onnx nor onnx_ir: the worker processes of ``timing`` use it and must start at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as state

from advconv_onnx.errors import CheckError, InputError, MissingDependencyError
from advconv_onnx.runtime.providers import require

# ONNX Runtime's exceptions have no common base class.
_ERRORS = (
    state.EPFail,
    state.EngineError,
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.InvalidProtobuf,
    state.NoModel,
    state.NoSuchFile,
    state.NotFound,
    state.NotImplemented,
    state.RuntimeException,
)

_WORDINGS = (
    (
        r".*?([\w.]+):(\w+)\(-?\d+\) is not a registered function/op.*",
        r"operator \1:\2 is unknown to ONNX Runtime and no library for it can be given; "
        r"replace it by standard operators",
    ),
    (
        r".*Opset (\d+) is under development.*domain (\S+) is till opset (\d+).*",
        r"opset \1 of \2 is newer than opset \3, the last this ONNX Runtime supports; "
        r"convert the model to opset \3 or upgrade onnxruntime",
    ),
)

_PREFIX = r"^(\[ONNXRuntimeError\] : \d+ : \w+ : )?(Load model from .*? failed:)?"


def create_session(
    source: str | bytes,
    label: str,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    graph_optimizations: bool = True,
    entries: Mapping[str, str] | None = None,
    profile_prefix: str | None = None,
) -> ort.InferenceSession:
    """Open a session on a model file or on a serialized model.

    Args:
        source: path of the file, or the bytes of a ModelProto without external data.
        label: what error messages call the model.
        provider: a name of ``providers.PROVIDERS``; nodes it cannot run go to the CPU.
        threads: intra-op threads; None for one per physical core this process may use.
        graph_optimizations: False runs the graph as it is written.
        entries: further session configuration entries.
        profile_prefix: where to write ONNX Runtime's profile; None for no profile.

    Raises:
        InputError: no such provider, or fewer than one thread.
        MissingDependencyError: the provider does not work here.
        CheckError: ONNX Runtime does not load the model.
    """
    choice = require(provider)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = resolve_threads(threads)
    if not graph_optimizations:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Several sessions are usually open at once: idle threads must not spin and slow the others.
    for key, value in {"session.force_spinning_stop": "1", **(entries or {})}.items():
        options.add_session_config_entry(key, value)
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    names = dict.fromkeys([choice.execution_provider, "CPUExecutionProvider"])
    wanted = [(name, {} if name != choice.execution_provider else choice.options) for name in names]
    try:
        session = ort.InferenceSession(source, options, providers=wanted)
    except _ERRORS as error:
        raise CheckError(f"{label}: ONNX Runtime does not load it: {_one_line(error)}") from error
    session.disable_fallback()
    if choice.execution_provider not in session.get_providers():
        raise MissingDependencyError(
            f"provider {provider!r} did not start (no such device, or a driver that does not fit "
            f"{choice.package} {ort.__version__}); check the device with the vendor's tool"
        )
    return session


def run_session(
    session: ort.InferenceSession, inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Run one inference and return every output by its name.

    Raises:
        CheckError: an input is missing or does not fit, or a node fails.
    """
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))
    except (*_ERRORS, RuntimeError, ValueError) as error:  # RuntimeError: no such type of numpy
        raise CheckError(f"the model does not run: {_one_line(error)}") from error


def resolve_threads(threads: int | None) -> int:
    """Return ``threads``, or for None the number of physical cores this process may use.

    Raises:
        InputError: fewer than one thread.
    """
    if threads is not None:
        if threads < 1:
            raise InputError(f"threads={threads} is too few; use 1 or more")
        return threads
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    return len({_siblings(cpu) for cpu in os.sched_getaffinity(0)})


def _siblings(cpu: int) -> str:
    """Name the physical core that a logical processor belongs to."""
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return topology.read_text()
    except OSError:
        return str(cpu)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    for pattern, wording in _WORDINGS:
        if match := re.fullmatch(pattern, text):
            return match.expand(wording)
    return re.sub(_PREFIX, "", text)
