"""The folder of a run's results: whose they are, what is there already, and lines of labels.

A run that was interrupted goes on where it was, for there are no results but whole ones: a file
whose result is there is not run again. ``run.json`` says what made the results, so that those of
another model are never taken for them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from advconv_onnx import model as files
from advconv_onnx.errors import InputError
from advconv_onnx.runner.job import STAGING, Job
from advconv_onnx.runner.lines import NAME as LINES
from advconv_onnx.runner.lines import Lines, has_lines
from advconv_onnx.runner.sources import Source

if sys.platform != "win32":
    import fcntl

RECORD = "run.json"


class Results:
    """What is in the folder.

    Attributes:
        kept: how many files had results already, of those that ``has`` was asked for.
    """

    def __init__(self, job: Job, lines: Lines | None) -> None:
        """Look at the results of a job, in lines if these are not files."""
        self._job = job
        self._lines = lines
        self.kept = 0

    def has(self, source: Source) -> bool:
        """Whether a file needs not be run again."""
        if self._lines is not None:
            there = source.name in self._lines
        else:
            there = self._job.target(source).exists()
        self.kept += there
        return there

    def add(self, text: str) -> None:
        """Keep lines of labels.

        Raises:
            InputError: they cannot be written.
        """
        if self._lines is not None and text:
            self._lines.append(text)


@contextlib.contextmanager
def opened(job: Job, identity: Mapping[str, Any]) -> Iterator[Results]:
    """Make or enter the folder of a run's results; nobody else may write to it meanwhile.

    Args:
        job: says where it is.
        identity: all that results depend on, as JSON has it.

    Raises:
        InputError: the folder cannot be written, holds something else or the results of another
            run, or another run is writing to it.
    """
    with contextlib.ExitStack() as stack:
        try:
            job.out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(job.out))
            _check_owner(job.out, identity)
            stack.callback(_tidy, job.out)
            lines = Lines(job) if job.form == "labels" else None
        except OSError as error:
            raise InputError(f"cannot write to '{job.out}': {error.strerror or error}") from error
        yield Results(job, lines)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other runs out; the lock goes with the process, however that ends."""
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"another run is writing to '{folder}'; wait for it") from error
        except OSError:
            pass  # some network file systems have no locks
        yield
    finally:
        os.close(descriptor)


def _tidy(folder: Path) -> None:
    """Take away what is no result, of runs that were killed too, and without results the folder."""
    shutil.rmtree(folder / STAGING, ignore_errors=True)
    with contextlib.suppress(OSError):
        if {path.name for path in folder.iterdir()} <= {RECORD, LINES} and not has_lines(folder):
            (folder / LINES).unlink(missing_ok=True)
            (folder / RECORD).unlink(missing_ok=True)
            folder.rmdir()


def _check_owner(folder: Path, identity: Mapping[str, Any]) -> None:
    record = folder / RECORD
    text = json.dumps(identity, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    if not record.exists():
        if any(not path.name.startswith(".") for path in folder.iterdir()):
            raise InputError(f"'{folder}' holds something else; name an empty or a new folder")
        files.write_text(record, text)
        return
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
        others = [key for key in identity if json.loads(text)[key] != known.get(key)]
    except (ValueError, AttributeError) as error:
        raise InputError(f"'{record}' is damaged; name another folder") from error
    if others:
        raise InputError(
            f"'{folder}' holds results of another run, with another {' and '.join(others)}; "
            "name another folder"
        )
