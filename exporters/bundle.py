"""Everything a target needs in one folder or zip: the model, what it expects, and how to tell.

    manifest.json     what each file is, its SHA-256, inputs, outputs, device, latency, versions
    model.onnx        and model.onnx.data, where weights are external
    samples/0.npz     inputs and the outputs they must give, computed in float64
    labels.txt        a line for each class, if there are classes
    report.json       what ``advconv optimize --json`` wrote, if it was given

``bundle_check`` proves a bundle again where it has arrived.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import io
import json
import os
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from advconv_onnx import model as files
from advconv_onnx.errors import InputError
from advconv_onnx.exporters import options
from advconv_onnx.preprocessing import Preprocessing
from advconv_onnx.records import Artifact
from advconv_onnx.runner.inputs import Input, fit
from advconv_onnx.runner.manifest import MANIFEST, MODEL, SAMPLES, SCHEMA, describe
from advconv_onnx.runner.session import read_labels
from advconv_onnx.runtime.engine import resolve_threads, run_session
from advconv_onnx.runtime.inputs import largest, spell_shapes
from advconv_onnx.runtime.providers import device
from advconv_onnx.runtime.session import open_session
from advconv_onnx.runtime.timing import measure
from advconv_onnx.runtime.validate import Evidence

_MOST_SAMPLES = 4

_SECONDS = 5.0
"""Time for the measurement of the latency."""

_VERSIONS = ("advconv-onnx", "numpy", "onnx", "onnxruntime")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(options.Options):
    """Also for bundles.

    Attributes:
        max_error: also holds where the bundle is checked again.
        labels: text file with a line for each class, as many as an output has channels.
        report: what ``advconv optimize --json`` wrote.
        preprocessing: what is done to a picture before the model sees it; of a mapping, the fields
            that are missing follow from the model's input.
    """

    labels: str | os.PathLike[str] | None = None
    report: str | os.PathLike[str] | None = None
    preprocessing: Preprocessing | Mapping[str, Any] | None = None


def export(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    progress: Callable[[str], None] | None = None,
    **wanted: Any,
) -> Artifact:
    """Write a model with all that belongs to it.

    Args:
        model: path of an ONNX file, which is never modified.
        out: a folder that does not exist yet, or a file that ends in .zip.
        progress: called with the name of each stage as it begins.
        wanted: the fields of ``Options``.

    Raises:
        InputError: a file cannot be read or written, or ``out`` exists as a folder.
        CheckError: ONNX Runtime does not compute what the model says.
    """
    asked = Options(**wanted)
    announce = progress or (lambda stage: None)
    target = Path(out)
    if target.suffix != ".zip" and target.exists():
        raise InputError(f"'{target}' exists; remove it, or name another folder or a .zip")
    loaded = asked.load(model, target)
    extra = {"labels.txt": _read(asked.labels), "report.json": _read(asked.report)}
    notes = tuple(_about_report(extra["report.json"], asked.report, Path(model)))
    announce("running in float64")
    evidence = asked.gather(loaded)
    session = open_session(loaded, threads=asked.threads)
    found = asked.prove(loaded, lambda sample: run_session(session, sample), evidence)
    if asked.labels is not None:
        _check_labels(asked.labels, session, evidence)
    inputs = [_interface(value) for value in loaded.graph.inputs]
    for entry, value in zip(inputs, session.get_inputs(), strict=True):
        entry["layout"] = _layout(Input.of(value))
    prepared = _prepared(session, asked)
    with files.staging_folder(target) as folder:
        announce("writing")
        files.save(loaded, folder / MODEL)
        for name, content in extra.items():
            if content is not None:
                (folder / name).write_bytes(content)
        _write_samples(folder, loaded, evidence, session)
        announce("measuring")
        text = json.dumps(
            {
                "schema": SCHEMA,
                "files": dict(describe(folder)),
                "inputs": inputs,
                "outputs": [_interface(value) for value in loaded.graph.outputs],
                "preprocessing": prepared and dataclasses.asdict(prepared),
                **_measured(folder, loaded, evidence, asked),
            },
            indent=2,
            ensure_ascii=False,
            allow_nan=False,
        )
        (folder / MANIFEST).write_text(text, encoding="utf-8")
        written = _publish(folder, target)
    digest = hashlib.sha256(text.encode()).hexdigest()
    note = f"whoever must trust the bundle compares the SHA-256 of its manifest: {digest}"
    return options.artifact("bundle", written, found, notes=(note, *notes))


def _measured(folder: Path, model: ir.Model, evidence: Evidence, asked: Options) -> dict[str, Any]:
    """How exact and how fast the model is, and where."""
    timed = largest(evidence.samples).inputs
    paths = {MODEL: folder / MODEL}
    measured = measure(paths, timed, threads=asked.threads, time_limit=_SECONDS)
    return {
        "max_error": asked.limit(model),
        "device": dataclasses.asdict(device("cpu", resolve_threads(asked.threads))),
        "latency_ms": dataclasses.asdict(measured.timings[0].latency),
        "latency_inputs": measured.shape,
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONS},
    }


def _prepared(session: ort.InferenceSession, asked: Options) -> Preprocessing | None:
    """The whole of what is done to a picture, if anything was said about it."""
    if asked.preprocessing is None:
        return None
    first, *others = map(Input.of, session.get_inputs())
    if others:
        raise InputError(
            f"--mean and the like: the model has {len(others) + 1} inputs, pictures are run on "
            "models of one; leave them out"
        )
    return fit(asked.preprocessing, first)


def _layout(to: Input) -> str | None:
    try:
        return fit({}, to).layout
    except InputError:
        return None  # it takes no pictures


def _read(path: str | os.PathLike[str] | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror or error}") from error


def _about_report(
    content: bytes | None, name: str | os.PathLike[str] | None, model: Path
) -> Iterator[str]:
    """Yield what a reader of the report must know."""
    if content is None:
        return
    try:
        digest = json.loads(content)["optimized"]["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"'{name}' is no report of a model; give what advconv optimize --json wrote"
        ) from error
    if digest != files.sha256(model):
        yield f"'{name}' is about another file than '{model}', such as the one before a conversion"


def _check_labels(
    name: str | os.PathLike[str], session: ort.InferenceSession, evidence: Evidence
) -> None:
    """Refuse labels for another number of classes than any output has."""
    count = len(read_labels(name))
    outputs = run_session(session, evidence.samples[0].inputs)
    # What a class index is an index of cannot be seen.
    if any(array.dtype.kind in "iu" for array in outputs.values()):
        return
    if not any(count in (*array.shape[1:2], *array.shape[-1:]) for array in outputs.values()):
        raise InputError(
            f"'{name}' has {count} lines, but no output has as many channels "
            f"({spell_shapes(outputs)}); write a line for each class"
        )


def _interface(value: ir.Value) -> dict[str, Any]:
    shape = None if value.shape is None else [_dim(dim) for dim in value.shape]
    kind = None if value.dtype is None else value.dtype.name.lower()
    return {"name": value.name, "type": kind, "shape": shape}


def _dim(dim: int | ir.SymbolicDim) -> int | str | None:
    return dim if isinstance(dim, int) else dim.value


def _write_samples(
    folder: Path, model: ir.Model, evidence: Evidence, session: ort.InferenceSession
) -> None:
    """Inputs, and what float64 makes of them; ONNX Runtime where there is no float64."""
    (folder / SAMPLES).mkdir()
    exact = evidence.exact
    known = [s for s in evidence.samples if exact and id(s) in exact.outputs]
    for number, sample in enumerate((known or evidence.samples)[:_MOST_SAMPLES]):
        computed = run_session(session, sample.inputs)
        if exact is not None:
            judged = exact.outputs[id(sample)]
            computed = {n: judged[n].astype(array.dtype) for n, array in computed.items()}
        names = [value.name or "" for value in model.graph.inputs]
        arrays: dict[str, Any] = {f"input_{i}": sample.inputs[n] for i, n in enumerate(names)}
        arrays |= {f"output_{i}": array for i, array in enumerate(computed.values())}
        np.savez(folder / SAMPLES / f"{number}.npz", **arrays)


def _publish(folder: Path, target: Path) -> tuple[Path, ...]:
    """Put a finished folder where it belongs, as it is or as a zip; whole or not at all."""
    if target.suffix != ".zip":
        return files.publish_folder(folder, target)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix())  # of 1980, for all alike
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, path.read_bytes())
    files.write_bytes(target, packed.getvalue())
    return (target,)
