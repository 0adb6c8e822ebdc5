"""What a bundle says about itself, and whether that is still true of its files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from advconv_onnx import model as files
from advconv_onnx.errors import CheckError, InputError

SCHEMA = 1
MANIFEST = "manifest.json"
MODEL = "model.onnx"
SAMPLES = "samples"
LABELS = "labels.txt"


def describe(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Size and hash of each file but the manifest."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name != MANIFEST:
            yield name, {"bytes": path.stat().st_size, "sha256": files.sha256(path)}


def read_manifest(content: bytes, path: Path) -> dict[str, Any]:
    """Read a manifest.

    Raises:
        InputError: it is none, or of a newer version.
    """
    try:
        manifest = json.loads(content)
        names = list(manifest["files"])
        known = all(
            isinstance(entry["bytes"], int) and isinstance(entry["sha256"], str)
            for entry in manifest["files"].values()
        )
        named = all(
            isinstance(value["name"], str) for value in (*manifest["inputs"], *manifest["outputs"])
        )
        float(manifest["max_error"])
        version = int(manifest["schema"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"'{path}' is no bundle: its {MANIFEST} is damaged") from error
    if version > SCHEMA:
        raise InputError(f"'{path}': a newer advconv-onnx made this bundle; upgrade")
    if not (known and named and MODEL in names and all(map(is_plain, names))):
        raise InputError(f"'{path}' is no bundle: its {MANIFEST} is damaged")
    return dict(manifest)


def is_plain(name: str) -> bool:
    """Whether a name stays inside the folder it is read in, on every system."""
    parts = PurePosixPath(name).parts
    plain = bool(parts) and not name.startswith("/") and "\\" not in name and ":" not in name
    return plain and ".." not in parts and PurePosixPath(name).as_posix() == name


def verify(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Compare the files with the manifest.

    Raises:
        CheckError: naming the first that is not what it was.
    """
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    if extra := there - manifest["files"].keys() - {MANIFEST}:
        raise CheckError(f"'{min(extra)}' was added to the bundle")
    for name, known in manifest["files"].items():
        path = folder / name
        if name not in there:
            raise CheckError(f"'{name}' is missing from the bundle")
        if path.is_symlink() or path.stat().st_size != known["bytes"]:
            raise CheckError(f"'{name}' was changed: it is a link, or its size is another")
        if files.sha256(path) != known["sha256"]:
            raise CheckError(f"'{name}' was changed: its SHA-256 is another")
