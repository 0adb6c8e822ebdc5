"""What is done with each file of a run, by whichever process it is done."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.preprocessing import Preprocessing
from advconv_onnx.records import FileFailure
from advconv_onnx.runner.ahead import ahead
from advconv_onnx.runner.interpretation import likeliest, mask, scores
from advconv_onnx.runner.packing import pack
from advconv_onnx.runner.pictures import Frame, encode_mask
from advconv_onnx.runner.reading import Item
from advconv_onnx.runner.session import Batch, Outputs, Result, Session
from advconv_onnx.runner.sources import Source

SUFFIXES = {"npz": ".npz", "masks": ".png", "labels": ""}
"""What results are written as, and what is added to the name of an input; labels are lines."""

_WRITERS = 4
"""Threads that write results: flushing a file to the disk is mostly waiting."""

STAGING = ".unfinished"
"""Folder in that of the results; what is in it is renamed when it is whole."""


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """How a model is run and what its results are written as; small, and can be sent.

    Attributes:
        out: the folder of the results.
        form: a key of ``SUFFIXES``.
        labels: of the classes, or empty.
        top: how many classes a line of labels has.
    """

    out: Path
    form: str = "npz"
    labels: tuple[str, ...] = ()
    top: int = 1

    def target(self, source: Source) -> Path:
        """The file that the results of ``source`` go to."""
        return self.out / f"{source.name}{SUFFIXES[self.form]}"


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """Files that are done with.

    Attributes:
        written: how many have results.
        lines: of labels.
        ms: of the inference; None where there was none.
    """

    written: int
    failures: tuple[FileFailure, ...]
    lines: str
    ms: float | None


def work(session: Session, job: Job, sources: Iterable[Source]) -> Iterator[Done]:
    """Run a model on files and write their results, each whole or not at all.

    Lines of labels are not written but returned.

    Raises:
        InputError: a result cannot be written, or the model makes none of this form.
    """
    finish = functools.partial(_finish, session, job)
    yield from ahead(finish, session.batches(sources), threads=_WRITERS, most=_WRITERS)


def _finish(session: Session, job: Job, batch: Batch) -> Done:
    failures, lines, written = [], io.StringIO(), 0
    for result in batch.results:
        try:
            lines.write(_write(session, job, result))
            written += 1
        except _Unusable as error:
            failures.append(FileFailure(str(result.source.path), str(error)))
    return Done(written, tuple(failures), lines.getvalue(), batch.ms)


class _Unusable(Exception):
    """There is no result for one file."""


def _write(session: Session, job: Job, result: Result) -> str:
    """Write the result of one file, or return its lines."""
    outputs = result.outputs
    if result.item is None or not isinstance(outputs, dict):
        raise _Unusable(outputs)
    try:
        if job.form == "labels":
            return _lines(job, result.source.name, outputs)
        content = pack(outputs) if job.form == "npz" else _mask(session, result.item, outputs)
    except CheckError as error:
        raise _Unusable(error) from error
    _publish(job, result.source, content)
    return ""


def _mask(session: Session, item: Item, outputs: Outputs) -> bytes:
    how = session.preprocessing
    layout = how.layout if isinstance(how, Preprocessing) else "NCHW"
    frame = item.frame
    if frame is None:  # an array is its own picture
        shape = next(iter(item.inputs.values())).shape
        height, width = shape[2:4] if layout == "NCHW" else shape[1:3]
        frame = Frame((height, width), (height, width), (0, 0, height, width))
    return encode_mask(mask(outputs, layout, frame))


def _lines(job: Job, name: str, outputs: Outputs) -> str:
    """A line for each sample: the name of the file, and the likeliest classes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in scores(outputs):
        best = likeliest(row, job.top)
        cells = [(label_of(index, row.size, job.labels), _number(part)) for index, part in best]
        cells += [("", "")] * (job.top - len(best))
        writer.writerow([name, *(cell for pair in cells for cell in pair)])
    return text.getvalue()


def label_of(index: int, classes: int, labels: Sequence[str]) -> str:
    """The label of a class, its number where there are no labels.

    Args:
        index: of the class.
        classes: how many the model tells apart; 1 if it only says which.
        labels: of all classes.

    Raises:
        InputError: the labels are for another number of classes.
    """
    if not labels:
        return str(index)
    if not 0 <= index < len(labels) or classes not in (1, len(labels)):
        raise InputError(
            f"there are {len(labels)} labels, the model has {max(classes, index + 1)} classes; "
            "give --labels a line for each"
        )
    return labels[index]


def _number(probability: float | None) -> str:
    return "" if probability is None else f"{probability:.6g}"


def _publish(job: Job, source: Source, content: bytes) -> None:
    """Write a result beside the others, flush it to the disk, and give it its name."""
    target = job.target(source)
    staged = job.out / STAGING / uuid.uuid4().hex
    try:
        staged.parent.mkdir(exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        with staged.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(target)
    except OSError as error:
        raise InputError(
            f"cannot write '{target}': {error.strerror or error}; what is written stays, and the "
            "same call goes on from there"
        ) from error
