"""Opening a bundle, wherever it came from.

A file that was changed, added or lost is found before anything is run. The files of a zip are only
read under the names that its manifest has, which lead nowhere else.
"""

from __future__ import annotations

import contextlib
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.runner.manifest import MANIFEST, is_plain, read_manifest, verify

_LARGEST_MANIFEST = 1 << 20
"""Bytes that are read before anything is known about a zip."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Find a bundle whole; yield a folder with its files, and its manifest.

    Args:
        path: the folder or the zip.

    Raises:
        InputError: there is no bundle, or what is there is none.
        CheckError: a file was changed, added or lost.
    """
    with contextlib.ExitStack() as stack:
        folder = path
        if path.is_dir():
            manifest = read_manifest(_content(path / MANIFEST), path)
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            manifest = _unpacked(path, folder)
        verify(folder, manifest)
        yield folder, manifest


def _unpacked(path: Path, folder: Path) -> dict[str, Any]:
    """Write the files of a zip into a folder; return its manifest."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path)
            if MANIFEST not in members or members[MANIFEST].file_size > _LARGEST_MANIFEST:
                raise InputError(f"'{path}' is no bundle: it has no {MANIFEST}")
            manifest = read_manifest(archive.read(members[MANIFEST]), path)
            _unpack(archive, members, manifest, folder)
            return manifest
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
