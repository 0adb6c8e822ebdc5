"""The files of a run, one after the other: however many there are, few are in memory."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from advconv_onnx.errors import InputError
from advconv_onnx.records import FileFailure

_COMMON = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_RARE = (".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif")
SUFFIXES = frozenset((".npy", ".npz", *_COMMON, *_RARE))
"""What is looked for in folders."""

_LONGEST_NAME = 240
"""Bytes of a file's name to which a suffix can be added on every system."""


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """A file to run the model on.

    Attributes:
        name: of what is made of it: relative, with "/", and no other file of the run has it.
    """

    path: Path
    name: str


class Sources:
    """The files below some paths; each iteration looks again.

    In a folder these are the pictures and arrays whose names do not begin with a dot, sorted, and
    then those of its folders. Links to files are followed, links to folders are not. A path that is
    no folder is taken whatever its name is.

    Attributes:
        bases: folders that the names are relative to.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], out: Path | None = None) -> None:
        """Check what can be checked at once.

        Args:
            paths: files and folders. The names of a folder that is alone are relative to it, all
                others to the folder above.
            out: a folder that is not looked into.

        Raises:
            InputError: a path does not exist, two have one name, or one lies in ``out``.
        """
        self._roots = [Path(path) for path in paths]
        self._out = out
        self._alone = len(self._roots) == 1 and self._roots[0].is_dir()
        self.bases: set[Path] = set()
        taken: dict[str, Path] = {}
        for root in self._roots:
            if not root.exists():
                raise InputError(f"'{root}' does not exist; check the path")
            whole = root.absolute() if root.is_file() else root.resolve()
            if out is not None and whole.resolve().is_relative_to(out.resolve()):
                raise InputError(f"'{root}' is in the folder of the results; name another -o")
            if whole.name in taken:
                raise InputError(
                    f"'{taken[whole.name]}' and '{root}' are both called '{whole.name}'; run the "
                    "model on them one after the other"
                )
            taken[whole.name] = root
            self.bases.add(whole if self._alone else whole.parent)

    def __iter__(self) -> Iterator[Source | FileFailure]:
        """Yield the files, and what cannot be looked into or named."""
        for root in self._roots:
            if root.is_dir():
                yield from self._below(root, "" if self._alone else root.resolve().name)
            else:
                yield _named(root, root.name)

    def _below(self, root: Path, top: str) -> Iterator[Source | FileFailure]:
        lost: list[OSError] = []
        for folder, folders, names in os.walk(root, onerror=lost.append):
            folders[:] = sorted(name for name in folders if self._is_wanted(folder, name))
            below = Path(top, Path(folder).relative_to(root))
            for name in sorted(names):
                if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                    yield _named(Path(folder, name), (below / name).as_posix())
        for error in lost:
            yield FileFailure(_printable(str(error.filename)), error.strerror or str(error))

    def _is_wanted(self, folder: str, name: str) -> bool:
        if name.startswith("."):
            return False
        return self._out is None or Path(folder, name).resolve() != self._out.resolve()


def _named(path: Path, name: str) -> Source | FileFailure:
    if _printable(name) != name:
        return FileFailure(_printable(str(path)), "its name is no text on one line; rename it")
    if len(os.fsencode(path.name)) > _LONGEST_NAME:
        return FileFailure(str(path), "its name is too long to add a suffix; rename it")
    return Source(path, name)


def _printable(text: str) -> str:
    """The text without what is no character, and without line breaks and the like."""
    plain = text.encode(errors="backslashreplace").decode()
    return "".join(c if c >= " " and c != "\x7f" else " " for c in plain)
