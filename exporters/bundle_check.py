"""Whether a bundle is whole, and computes here what it computed where it was made.

A file that was changed, added or lost is found before anything is run. The files of a zip are only
read under the names that its manifest has, which lead nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.exporters.manifest import (
    MANIFEST,
    MODEL,
    SAMPLES,
    is_plain,
    read_manifest,
    verify,
)
from advconv_onnx.records import TensorCheck, Validation
from advconv_onnx.runtime.difference import Difference
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.inputs import spell_shapes
from advconv_onnx.runtime.session import open_session

_LARGEST_MANIFEST = 1 << 20
"""Bytes that are read before anything is known about a zip."""


def check(
    bundle: str | os.PathLike[str], *, provider: str = "cpu", threads: int | None = None
) -> Validation:
    """Tell whether a bundle is whole and computes here what it computed where it was made.

    Args:
        bundle: the folder or the zip.
        provider: a name of ``providers.PROVIDERS``.
        threads: intra-op threads; None for one per physical core.

    Raises:
        InputError: there is no bundle, or what is there is none.
        CheckError: a file was changed, added or lost, or the model does not load or run here.
        MissingDependencyError: the provider does not work here.
    """
    path = Path(bundle)
    with _opened(path) as (folder, manifest):
        verify(folder, manifest)
        session = open_session(folder / MODEL, provider=provider, threads=threads)
        names = [value["name"] for value in manifest["outputs"]]
        differences = {name: Difference(None) for name in names}
        shapes = []
        samples = sorted((folder / SAMPLES).glob("*.npz"))
        for sample in samples:
            given, want = _read_sample(sample, manifest)
            shapes.append(spell_shapes(given))
            got = run_session(session, given)
            if got.keys() != want.keys():
                raise CheckError(f"the model's outputs are not those that {MANIFEST} names")
            for name, expected in want.items():
                differences[name].add(expected, got[name], None, typed=False)
    limit = float(manifest["max_error"])
    checks = [TensorCheck(n, d.error(limit), d.range) for n, d in differences.items()]
    problems = [f"output '{n}' {d.problem}" for n, d in differences.items() if d.problem]
    passed = not problems and all(not d.differs(limit) for d in differences.values())
    return Validation(
        passed and bool(samples),
        limit,
        tuple(checks),
        len(samples),
        tuple(dict.fromkeys(shapes)),
        tuple(problems),
    )


def _read_sample(
    path: Path, manifest: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Inputs and expected outputs by name."""
    names = {kind: [v["name"] for v in manifest[f"{kind}s"]] for kind in ("input", "output")}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            given, want = (
                {name: arrays[f"{kind}_{index}"] for index, name in enumerate(names[kind])}
                for kind in ("input", "output")
            )
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise CheckError(f"'{SAMPLES}/{path.name}' does not fit {MANIFEST}") from error
    return given, want


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The files of a bundle in a folder, and its manifest."""
    if path.is_dir():
        yield path, read_manifest(_content(path / MANIFEST), path)
        return
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            members = _members(archive, path)
            if MANIFEST not in members or members[MANIFEST].file_size > _LARGEST_MANIFEST:
                raise InputError(f"'{path}' is no bundle: it has no {MANIFEST}")
            manifest = read_manifest(archive.read(members[MANIFEST]), path)
            _unpack(archive, members, manifest, folder)
            yield folder, manifest
    except zipfile.BadZipFile as error:
        raise InputError(f"'{path}' is no bundle, or is damaged: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror or error}") from error


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if info.filename in members or not is_plain(info.filename):
            raise InputError(f"'{path}' is no bundle: '{info.filename}' is no name of a file in it")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise InputError(f"'{path}' is no bundle: '{info.filename}' is a link")
        members[info.filename] = info
    return members


def _unpack(
    archive: zipfile.ZipFile,
    members: Mapping[str, zipfile.ZipInfo],
    manifest: Mapping[str, Any],
    folder: Path,
) -> None:
    """Write the files that the manifest has, each no larger than it says."""
    if extra := members.keys() - manifest["files"].keys() - {MANIFEST}:
        raise CheckError(f"'{min(extra)}' was added to the bundle")
    for name, known in manifest["files"].items():
        if name in members and members[name].file_size == known["bytes"]:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(members[name]) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
        elif name in members:
            raise CheckError(f"'{name}' was changed: its size is another")
    (folder / MANIFEST).touch()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"'{path.parent}' is no bundle: it has no {path.name}") from error
