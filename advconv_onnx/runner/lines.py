"""Labels as lines of one file, which only grows: by all lines of a batch, or by none."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import BinaryIO

from advconv_onnx import model as files
from advconv_onnx.errors import InputError
from advconv_onnx.runner.job import Job

NAME = "labels.csv"


def has_lines(folder: Path) -> bool:
    """Whether there is more than the names of the columns."""
    path = folder / NAME
    return path.exists() and path.read_bytes().count(b"\n") > 1


class Lines:
    """The file of labels in the folder of a job's results."""

    def __init__(self, job: Job) -> None:
        """Make the file, or read whose lines it has already.

        Raises:
            InputError: it is another one.
            OSError: it cannot be read or written.
        """
        pairs = ["label", "probability"]
        more = (f"{name}_{rank}" for rank in range(2, job.top + 1) for name in pairs)
        header = ",".join(["path", *pairs, *more]) + "\n"
        self.path = job.out / NAME
        self._names: set[str] = set()
        if not self.path.exists():
            files.write_text(self.path, header)
        with self.path.open("rb") as file:
            if file.readline() != header.encode():
                raise InputError(f"'{self.path}' has other columns; name another folder")
            end = self._read(file)
        if end < self.path.stat().st_size:
            os.truncate(self.path, end)

    def __contains__(self, name: str) -> bool:
        """Whether a file has lines."""
        return name in self._names

    def append(self, text: str) -> None:
        """Add lines and flush them to the disk.

        Raises:
            InputError: they cannot be written; none of them is.
        """
        size = self.path.stat().st_size
        try:
            self._write(text)
        except OSError as error:
            os.truncate(self.path, size)
            raise InputError(
                f"cannot write '{self.path}': {error.strerror or error}; what is written stays, "
                "and the same call goes on from there"
            ) from error

    def _write(self, text: str) -> None:
        with self.path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def _read(self, file: BinaryIO) -> int:
        """Collect the names behind the header; return the size up to which lines are whole.

        Behind a line that was cut off the one before it goes too: both may be of one file.
        """
        start = end = file.tell()
        last = ""
        for line in file:
            if not line.endswith(b"\n"):
                self._names.discard(last)
                return start
            name = next(csv.reader([line.decode()]))[0]
            if name != last:
                start, last = end, name
            self._names.add(name)
            end += len(line)
        return end
