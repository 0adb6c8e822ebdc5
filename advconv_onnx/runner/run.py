"""A model run on any number of files, here or by the workers of a cluster."""

from __future__ import annotations

import array
import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advconv_onnx.errors import InputError
from advconv_onnx.preprocessing import Preprocessing
from advconv_onnx.records import FileFailure, Latency, Run
from advconv_onnx.runner import results
from advconv_onnx.runner.cluster import Cluster, distribute
from advconv_onnx.runner.job import SUFFIXES, Done, Job, work
from advconv_onnx.runner.pictures import require_pillow
from advconv_onnx.runner.session import Session, read_labels
from advconv_onnx.runner.sources import Source, Sources
from advconv_onnx.runtime.engine import resolve_threads
from advconv_onnx.runtime.providers import device

_SCHEMA = 1

Progress = Callable[[int, int], None]
"""Takes how many files are done with, and how many there are."""


def run(
    model: str | os.PathLike[str],
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    form: str = "npz",
    labels: str | os.PathLike[str] | None = None,
    top: int = 1,
    preprocessing: Mapping[str, Any] | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    batch: int | None = None,
    cluster: Cluster | None = None,
    progress: Progress | None = None,
    failed: Callable[[FileFailure], None] | None = None,
) -> Run:
    """Run a model on files; what was there before is kept, what cannot be read is left out.

    Args:
        model: an .onnx or .ort file, or a bundle.
        paths: files and folders, as for ``Sources``.
        out: a folder for the results, which have the names of the files and a suffix.
        form: "npz", "masks" or "labels".
        labels: text file with a line for each class; a bundle has its own.
        top: how many classes a line of labels has.
        preprocessing: fields of ``Preprocessing``, as for ``Session``.
        provider: where the model runs.
        threads: intra-op threads; None for one per physical core, in a cluster for one.
        batch: files that go through the model together.
        cluster: who does the work; None for this process.
        progress: called after each batch.
        failed: called with each file that there will be no result of.

    Raises:
        InputError: a path, the model or the folder is not as it must be, or a result cannot be
            written; what was written stays.
        CheckError: the model does not load.
        MissingDependencyError: a provider, pillow or Dask is missing.
    """
    if form not in SUFFIXES:
        raise InputError(f"--as '{form}' is unknown; use {', '.join(SUFFIXES)}")
    if top < 1:
        raise InputError(f"--top {top} is too few; use 1 or more")
    if form == "masks":
        require_pillow()
    sources = Sources(paths, Path(out))
    if next(iter(sources), None) is None:
        named = ", ".join(f"'{path}'" for path in paths)
        raise InputError(f"{named}: no pictures, .npy or .npz files are there; check the path")
    options: dict[str, Any] = {"preprocessing": preprocessing, "batch": batch}
    if cluster is None:
        options |= {"provider": provider, "threads": threads}
    session = Session(model, **options)  # of a cluster the workers have their own
    job = Job(
        Path(out).absolute(), form, session.labels if labels is None else read_labels(labels), top
    )
    tally = _Tally(failed)
    with results.opened(job, _identity(session, job, sources)) as there:
        todo = tally.without_failures(sources, there.has)
        total = sum(isinstance(each, Source) for each in sources) if progress else 0
        if cluster is None:
            stream = work(session, job, todo)
        else:
            stream = distribute(cluster, session, job, todo, provider=provider, threads=threads)
        for done in stream:
            there.add(done.lines)
            tally.add(done)
            if progress:
                progress(tally.settled + there.kept, total)
    how = session.preprocessing
    return Run(
        str(out),
        tally.written,
        there.kept,
        tuple(tally.failures),
        time.perf_counter() - tally.start,
        session.batch,
        1 if cluster is None else cluster.size,
        tally.latency,
        device(provider, resolve_threads(threads) if cluster is None else threads or 1),
        (f"pictures are {how}",) if isinstance(how, Preprocessing) else (),
    )


class _Tally:
    """What became of the files so far."""

    def __init__(self, failed: Callable[[FileFailure], None] | None) -> None:
        self._failed = failed
        self._ms = array.array("d")
        self.failures: list[FileFailure] = []
        self.written = 0
        self.settled = 0
        self.start = time.perf_counter()

    def without_failures(
        self, sources: Iterable[Source | FileFailure], done: Callable[[Source], bool]
    ) -> Iterator[Source]:
        for source in sources:
            if isinstance(source, FileFailure):
                self._fail(source)
            elif not done(source):
                yield source

    def add(self, done: Done) -> None:
        self.written += done.written
        self.settled += done.written + len(done.failures)
        for failure in done.failures:
            self._fail(failure)
        if done.ms is not None:
            self._ms.append(done.ms)

    @property
    def latency(self) -> Latency | None:
        if not self._ms:
            return None
        median, p90 = np.percentile(self._ms, [50, 90])
        return Latency(float(median), float(p90))

    def _fail(self, failure: FileFailure) -> None:
        self.failures.append(failure)
        if self._failed:
            self._failed(failure)


def _identity(session: Session, job: Job, sources: Sources) -> dict[str, Any]:
    """All that results depend on."""
    how = session.preprocessing
    identity: dict[str, Any] = {
        "schema": _SCHEMA,
        "model": session.digest,
        "folder of the inputs": sorted(map(str, sources.bases)),
        "--as": job.form,
        "preprocessing": dataclasses.asdict(how) if isinstance(how, Preprocessing) else dict(how),
    }
    if job.form == "labels":
        identity["--top"] = job.top
        identity["--labels"] = hashlib.sha256("\n".join(job.labels).encode()).hexdigest()
    return identity
