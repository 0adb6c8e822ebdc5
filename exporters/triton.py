"""A model for the Triton Inference Server: a folder of its model repository.

    OUT/config.pbtxt      what Triton must know
    OUT/1/model.onnx      version 1, with its .data where weights are external
    OUT/labels.txt        a line for each class, if there are classes

Triton may join requests of several clients to one batch, if the first dimension of every input and
output is that of a batch. That it looks so is no proof: here a batch is only allowed where two
samples at once give what each gives alone. Fields of the configuration:
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from google.protobuf import text_encoding

from advconv_onnx import model as files
from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.exporters import options
from advconv_onnx.records import Artifact
from advconv_onnx.runner.session import read_labels
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.inputs import Sample, spell_shapes
from advconv_onnx.runtime.session import open_session

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

_LABELS = "labels.txt"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(options.Options):
    """Also for Triton.

    Attributes:
        max_batch: samples that Triton may join, where that changes nothing.
        instances: copies of the model that work at the same time, on each device.
        labels: text file with a line for each class, as many as an output has values per sample.
    """

    max_batch: int = 8
    instances: int = 1
    labels: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that Triton does not take.

        Raises:
            InputError: naming the option.
        """
        super().__post_init__()
        for name in ("max_batch", "instances"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} must be 1 or more")


def export(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    progress: Callable[[str], None] | None = None,
    **wanted: Any,
) -> Artifact:
    """Write a model as a folder that Triton serves under the folder's name.

    Args:
        model: path of an ONNX file, which is never modified.
        out: a folder that does not exist yet, in the folder that is the model repository.
        progress: called with the name of each stage as it begins.
        wanted: the fields of ``Options``.

    Raises:
        InputError: a file cannot be read or written, or ``out`` exists.
        CheckError: ONNX Runtime does not compute what the model says.
    """
    asked = Options(**wanted)
    announce = progress or (lambda stage: None)
    target = Path(out)
    if target.exists():
        raise InputError(f"'{target}' exists; remove it, or name another folder")
    loaded = asked.load(model, target)
    for value in (*loaded.graph.inputs, *loaded.graph.outputs):
        tuple(_tensor(value, batched=False))  # refused before any work is done
    labels = None if asked.labels is None else read_labels(asked.labels)
    announce("running in float64")
    evidence = asked.gather(loaded)
    run = functools.partial(run_session, open_session(loaded, threads=asked.threads))
    found = asked.prove(loaded, run, evidence)
    announce("looking for a batch")
    problem = _no_batch(loaded, run, evidence.samples, asked.limit(loaded))
    sample = evidence.samples[0].inputs
    served = _Served(loaded, target.resolve().name, not problem, sample, run(sample), asked)
    configuration = "\n".join(_configuration(served, labels)) + "\n"
    announce("writing")
    with files.staging_folder(target) as folder:
        (folder / "1").mkdir()
        files.save(loaded, folder / "1" / "model.onnx")
        files.write_text(folder / "config.pbtxt", configuration)
        if labels is not None:
            files.write_text(folder / _LABELS, "".join(f"{label}\n" for label in labels))
        written = files.publish_folder(folder, target)
    note = f"no batching: {problem}" if problem else f"batches of up to {asked.max_batch}"
    return options.artifact("triton", written, found, notes=(note,))


def _no_batch(
    model: ir.Model, run: options.Run, samples: Sequence[Sample], max_error: float
) -> str:
    """Why samples must not be joined along the first dimension; "" where they may."""
    inputs, outputs = model.graph.inputs, model.graph.outputs
    if not inputs or not all(_dims(value)[:1] == [-1] for value in (*inputs, *outputs)):
        return "not every input and output has a dynamic first dimension"
    if len({value.shape[0] for value in inputs if value.shape}) > 1:
        return "the first dimensions of the inputs have different names"
    one, *alike = (sample.inputs for sample in samples if sample.shape == samples[0].shape)
    # Other values of the same kind, where only one sample was given.
    other = alike[-1] if alike else {name: _turned(array) for name, array in one.items()}
    try:
        apart = [run(sample) for sample in (one, other)]
        joined = {name: np.concatenate([one[name], other[name]]) for name in one}
        both = run(joined)
    except CheckError as error:
        return str(error)
    batch = len(next(iter(joined.values())))
    for name, found in both.items():
        want = np.concatenate([each[name] for each in apart])
        if len(found) != batch or not _agree(found, want, max_error):
            return f"output '{name}' of two samples is not that of each alone"
    return ""


def _turned(array: np.ndarray) -> np.ndarray:
    return np.flip(array, axis=tuple(range(1, array.ndim)))


def _agree(found: np.ndarray, want: np.ndarray, max_error: float) -> bool:
    if found.shape != want.shape or want.dtype.kind != "f":
        return np.array_equal(found, want)
    return bool(np.abs(found - want).max(initial=0.0) <= max_error * np.ptp(want))


@dataclasses.dataclass(frozen=True)
class _Served:
    """A model as it will be served.

    Attributes:
        name: of its folder.
        batched: whether Triton may join samples.
        inputs: one set of inputs that it runs with.
        outputs: what it makes of them.
    """

    model: ir.Model
    name: str
    batched: bool
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    asked: Options


def _configuration(served: _Served, labels: Sequence[str] | None) -> Iterator[str]:
    """The lines of config.pbtxt.

    Raises:
        InputError: Triton has no such tensor, or no output has as many values as there are labels.
    """
    asked, graph = served.asked, served.model.graph
    yield f"name: {_quoted(served.name)}"
    yield 'backend: "onnxruntime"'
    yield 'default_model_filename: "model.onnx"'
    yield f"max_batch_size: {asked.max_batch if served.batched else 0}"
    for value in graph.inputs:
        yield from ("input {", *_tensor(value, served.batched), "}")
    labelled = set() if labels is None else _labelled(served, len(labels))
    for value in graph.outputs:
        file = [f"  label_filename: {_quoted(_LABELS)}"] if value.name in labelled else []
        yield from ("output {", *_tensor(value, served.batched), *file, "}")
    yield f"instance_group {{ count: {asked.instances} kind: KIND_AUTO }}"
    if served.batched and asked.max_batch > 1:
        yield f"dynamic_batching {{ max_queue_delay_microseconds: {_QUEUE} }}"
    # A request that Triton makes of itself before it answers others.
    yield from ("model_warmup {", '  name: "one sample"', "  batch_size: 1")
    for value in graph.inputs:
        sizes = served.inputs[value.name or ""].shape[1 if served.batched else 0 :]
        yield f"  inputs {{ key: {_quoted(value.name)} value {{"
        yield f"    data_type: {_type(value)} dims: {_list(sizes or (1,))} zero_data: true"
        yield "  } }"
    yield "}"


def _tensor(value: ir.Value, batched: bool) -> Iterator[str]:
    dims = _dims(value)[1 if batched else 0 :]
    yield f"  name: {_quoted(value.name)}"
    yield f"  data_type: {_type(value)}"
    yield f"  dims: {_list(dims or (1,))}"
    if not dims:  # Triton has no scalars.
        yield "  reshape { shape: [] }"


def _dims(value: ir.Value) -> list[int]:
    """Sizes, -1 for those that are dynamic."""
    if value.shape is None:
        raise InputError(
            f"'{value.name}': its number of dimensions is not known; give shapes with --input"
        )
    return [dim if isinstance(dim, int) and dim > 0 else -1 for dim in value.shape]


def _labelled(served: _Served, count: int) -> set[str]:
    """The outputs with one value for each label."""
    first = 1 if served.batched else 0
    found = {n for n, y in served.outputs.items() if math.prod(y.shape[first:]) == count}
    if not found:
        raise InputError(
            f"'{served.asked.labels}' has {count} lines, but no output has as many values per "
            f"sample ({spell_shapes(served.outputs)}); write a line for each class"
        )
    return found


def _type(value: ir.Value) -> str:
    if value.dtype not in _TYPES:
        raise InputError(f"'{value.name}': Triton has no tensors of type {value.dtype}")
    return _TYPES[value.dtype]


def _list(sizes: Sequence[int]) -> str:
    return f"[{', '.join(map(str, sizes))}]"


def _quoted(text: str | None) -> str:
    return f'"{text_encoding.CEscape((text or "").encode(), as_utf8=False)}"'
