"""Labels as lines: whatever was cut off, a file has all of its lines or none."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from advconv_onnx.errors import InputError
from advconv_onnx.runner.job import Job
from advconv_onnx.runner.lines import Lines

HEADER = "path,label,probability\n"
WHOLE = 'a,x,1\n"b,c",x,1\n"b,c",y,1\n'


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path, "labels")


def test_lines_are_found_again(job: Job) -> None:
    lines = Lines(job)
    lines.append(WHOLE)
    again = Lines(job)
    assert ("a" in again, "b,c" in again, "b" in again) == (True, True, False)
    assert again.path.read_text() == HEADER + WHOLE


@pytest.mark.parametrize("tail", ["d,x,1", '"d', '"b,c",z', "\udcff"])
def test_a_line_that_was_cut_off_and_the_file_before_it_go(job: Job, tail: str) -> None:
    Lines(job).append(WHOLE)
    path = job.out / "labels.csv"
    path.write_bytes(path.read_bytes() + tail.encode(errors="surrogateescape"))
    lines = Lines(job)
    assert ("a" in lines, "b,c" in lines) == (True, False)
    assert path.read_text() == HEADER + "a,x,1\n"
    lines.append("e,x,1\n")
    assert path.read_text() == HEADER + "a,x,1\ne,x,1\n"


def test_lines_that_cannot_be_flushed_are_taken_back(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = Lines(job)
    lines.append(WHOLE)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        lines.append("d,x,1\n")
    assert lines.path.read_text() == HEADER + WHOLE


def test_a_first_line_that_was_cut_off(job: Job) -> None:
    Lines(job)
    path = job.out / "labels.csv"
    path.write_text(HEADER + "a,x")
    assert "a" not in Lines(job)
    assert path.read_text() == HEADER


def test_other_columns(job: Job) -> None:
    Lines(job)
    with pytest.raises(InputError, match="has other columns"):
        Lines(Job(job.out, "labels", top=2))
