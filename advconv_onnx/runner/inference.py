"""A model run once, on a file for each of its inputs."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from advconv_onnx import model as files
from advconv_onnx.preprocessing import Preprocessing
from advconv_onnx.records import Inference, OutputSummary
from advconv_onnx.runner.interpretation import likeliest, scores
from advconv_onnx.runner.job import label_of
from advconv_onnx.runner.packing import pack
from advconv_onnx.runner.session import Outputs, Session, read_labels


def infer(
    model: str | os.PathLike[str],
    inputs: Mapping[str, str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] | None = None,
    top: int = 5,
    preprocessing: Mapping[str, Any] | None = None,
    provider: str = "cpu",
    threads: int | None = None,
) -> Inference:
    """Run a model once and save its outputs.

    Args:
        model: an .onnx or .ort file, or a bundle.
        inputs: an .npy, an .npz or a picture for each input of the model.
        out: .npz file for the outputs.
        labels: text file with a line for each class; a bundle has its own.
        top: how many of the likeliest classes are named, where there are labels.
        preprocessing: fields of ``Preprocessing``, as for ``Session``.
        provider: where the model runs.
        threads: intra-op threads; None for one per physical core.

    Raises:
        InputError: a file is not as it must be, or cannot be read or written.
        CheckError: the model does not load or run.
        MissingDependencyError: a provider or pillow is missing.
    """
    files.check_writable(out)
    session = Session(model, preprocessing=preprocessing, provider=provider, threads=threads)
    names = session.labels if labels is None else read_labels(labels)
    arrays = {name: session.read(name, path) for name, path in inputs.items()}
    start = time.perf_counter()
    outputs = session(arrays)
    ms = 1e3 * (time.perf_counter() - start)
    files.write_bytes(out, pack(outputs))
    how = session.preprocessing
    return Inference(
        str(out),
        tuple(_summary(name, array) for name, array in outputs.items()),
        ms,
        _named(outputs, names, top) if names else (),
        (f"pictures are {how}",) if isinstance(how, Preprocessing) else (),
    )


def _named(
    outputs: Outputs, labels: tuple[str, ...], top: int
) -> tuple[tuple[str, float | None], ...]:
    row = scores(outputs)[0]
    best = likeliest(row, top)
    return tuple((label_of(index, row.size, labels), probability) for index, probability in best)


def _summary(name: str, array: np.ndarray) -> OutputSummary:
    finite = array[np.isfinite(array)] if array.dtype.kind in "fiu" else np.empty(0)
    figures = [finite.min(), finite.max(), finite.mean(dtype=np.float64)] if finite.size else []
    smallest, largest, mean = map(float, figures) if finite.size else (None, None, None)
    return OutputSummary(name, str(array.dtype), array.shape, smallest, largest, mean)
