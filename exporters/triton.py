"""A model repository for the Triton Inference Server: the model, its configuration, a warm-up.

    REPOSITORY/NAME/config.pbtxt
    REPOSITORY/NAME/1/model.onnx

Triton may put requests of several clients into one batch, if the first dimension of every input and
output is that of a batch. That it looks so is no proof: here a batch is only allowed where the
outputs for two samples at once are those for each alone. Fields of the configuration:
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.records import Artifact, Shape
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.inputs import Sample, runnable_samples
from advconv_onnx.runtime.session import open_session
from advconv_onnx.runtime.validate import validate_runtime

MAX_ERROR = 1e-4
"""Of an output's range: what rounding explains."""

LARGEST_BATCH = 8

_TYPES = {
    ir.DataType.BOOL: "TYPE_BOOL",
    ir.DataType.UINT8: "TYPE_UINT8",
    ir.DataType.UINT16: "TYPE_UINT16",
    ir.DataType.UINT32: "TYPE_UINT32",
    ir.DataType.UINT64: "TYPE_UINT64",
    ir.DataType.INT8: "TYPE_INT8",
    ir.DataType.INT16: "TYPE_INT16",
    ir.DataType.INT32: "TYPE_INT32",
    ir.DataType.INT64: "TYPE_INT64",
    ir.DataType.FLOAT16: "TYPE_FP16",
    ir.DataType.FLOAT: "TYPE_FP32",
    ir.DataType.DOUBLE: "TYPE_FP64",
    ir.DataType.STRING: "TYPE_STRING",
    ir.DataType.BFLOAT16: "TYPE_BF16",
}

_QUEUE = 1000
"""Microseconds that a request may wait for others to share its batch."""


def export(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    inputs: Mapping[str, Shape] | None = None,
    name: str | None = None,
    largest_batch: int = LARGEST_BATCH,
    max_error: float = MAX_ERROR,
    threads: int | None = None,
    data: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Artifact:
    """Write a model into a model repository.

    Args:
        model: path of an ONNX file, which is never modified.
        out: folder of the repository, which may hold other models and is made if it is missing.
        inputs: shapes for some of its inputs.
        name: of the model in the repository; by default that of its file.
        largest_batch: samples that Triton may join, where that changes nothing.
        max_error: largest difference from float64 accepted, relative to an output's range.
        threads: intra-op threads; None for one per physical core.
        data: arrays for inputs, used as they are.
        seed: of the inputs that are drawn.
        progress: called with the name of each stage as it begins.

    Raises:
        InputError: the file cannot be read, the repository cannot be written or has such a model.
        CheckError: ONNX Runtime does not compute what the model says.
    """
    announce = progress or (lambda stage: None)
    repository = Path(out)
    called = re.sub(r"[^\w.-]", "_", name or Path(model).stem)
    target = repository / called
    if target.exists():
        raise InputError(f"'{target}' exists; remove it, or choose another name or repository")
    loaded = files.load_runnable(model, inputs or {})
    announce("validating")
    found = validate_runtime(loaded, max_error=max_error, seed=seed, threads=threads, data=data)
    if not found.passed:
        raise CheckError(
            f"nothing was written: ONNX Runtime differs by {found.max_relative:.1e} of a range"
        )
    announce("looking for a batch")
    samples = runnable_samples(loaded, seed=seed, threads=threads, data=data)
    run = functools.partial(run_session, open_session(loaded, threads=threads))
    batched, why = _is_batched(loaded, run, samples, max_error)
    announce("writing")
    largest = largest_batch if batched else 0
    configuration = _configuration(called, loaded, largest, samples[0].inputs)
    written = _write(loaded, configuration, repository, target)
    note = f"dynamic batching of up to {largest_batch}: {why}" if batched else f"no batching: {why}"
    size = sum(path.stat().st_size for path in written)
    return Artifact("triton", tuple(map(str, written)), size, found, notes=(note,))


def _is_batched(
    model: ir.Model,
    run: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]],
    samples: Sequence[Sample],
    max_error: float,
) -> tuple[bool, str]:
    """Whether samples may be joined along the first dimension, and why or why not."""
    values = (*model.graph.inputs, *model.graph.outputs)
    firsts = {str(value.shape[0]) for value in values if value.shape}
    dynamic = all(value.shape and not isinstance(value.shape[0], int) for value in values)
    if not dynamic or len(firsts) != 1:
        return False, "not every input and output has one and the same dynamic first dimension"
    alike = [sample.inputs for sample in samples if sample.shape == samples[0].shape]
    one, other = alike[0], alike[-1]
    try:
        apart = [run(sample) for sample in (one, other)]
        both = run({name: np.concatenate([one[name], other[name]]) for name in one})
    except CheckError as error:
        return False, str(error)
    for output, found in both.items():
        want = np.concatenate([values[output] for values in apart])
        if not _agree(found, want, max_error):
            return False, f"output '{output}' of two samples is not that of each alone"
    return True, "two samples at once give what each gives alone"


def _agree(found: np.ndarray, want: np.ndarray, max_error: float) -> bool:
    if found.shape != want.shape or want.dtype.kind != "f":
        return np.array_equal(found, want)
    return bool(np.abs(found - want).max(initial=0.0) <= max_error * np.ptp(want))


def _configuration(
    name: str, model: ir.Model, largest_batch: int, sample: Mapping[str, np.ndarray]
) -> str:
    """The text of config.pbtxt."""
    lines = [
        f"name: {json.dumps(name)}",
        'backend: "onnxruntime"',
        'default_model_filename: "model.onnx"',
        f"max_batch_size: {largest_batch}",
    ]
    for kind, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        tensors = (_tensor(value, bool(largest_batch)) for value in values)
        lines += [f"{kind} [", ",\n".join(tensors), "]"]
    if largest_batch:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {_QUEUE} }}")
    lines += ["model_warmup [", _warm_up(model, sample, bool(largest_batch)), "]"]
    return "\n".join(lines) + "\n"


def _tensor(value: ir.Value, batched: bool) -> str:
    dims = _dims(value, batched)
    fields = [
        f"    name: {json.dumps(value.name)}",
        f"    data_type: {_type(value)}",
        f"    dims: [ {', '.join(map(str, dims or [1]))} ]",
    ]
    if not dims:  # Triton has no scalars.
        fields.append("    reshape: { shape: [ ] }")
    return "\n".join(["  {", *fields, "  }"])


def _warm_up(model: ir.Model, sample: Mapping[str, np.ndarray], batched: bool) -> str:
    """A request that Triton makes of itself before it answers others."""
    parts = ["  {", '    name: "one sample"', "    batch_size: 1" if batched else ""]
    for value in model.graph.inputs:
        dims = sample[value.name or ""].shape[1 if batched else 0 :] or (1,)
        is_float = value.dtype is not None and value.dtype.is_floating_point()
        parts += [
            "    inputs {",
            f"      key: {json.dumps(value.name)}",
            "      value {",
            f"        data_type: {_type(value)}",
            f"        dims: [ {', '.join(map(str, dims))} ]",
            f"        {'random_data' if is_float else 'zero_data'}: true",
            "      }",
            "    }",
        ]
    return "\n".join([*filter(None, parts), "  }"])


def _type(value: ir.Value) -> str:
    if value.dtype not in _TYPES:
        raise InputError(f"'{value.name}': Triton has no tensors of type {value.dtype}")
    return _TYPES[value.dtype]


def _dims(value: ir.Value, batched: bool) -> list[int]:
    """Sizes, -1 for those that are dynamic, the batch left out."""
    if value.shape is None:
        raise InputError(f"'{value.name}': its number of dimensions is not known; fix it first")
    return [dim if isinstance(dim, int) else -1 for dim in value.shape][1 if batched else 0 :]


def _write(model: ir.Model, configuration: str, repository: Path, target: Path) -> tuple[Path, ...]:
    """Write the folder beside its place, then rename it: it is there whole or not at all."""
    try:
        repository.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=repository))
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write '{repository}': {reason}; choose another place") from error
    try:
        (folder / "1").mkdir()
        files.save(model, folder / "1" / "model.onnx")
        files.write_text(folder / "config.pbtxt", configuration)
        folder.chmod(0o755)  # a temporary folder is its maker's alone
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return tuple(sorted(path for path in target.rglob("*") if path.is_file()))
