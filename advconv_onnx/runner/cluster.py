"""The files of a run shared out among the workers of a Dask cluster.

The workers read and write the files themselves, so they must see them under the same paths. A
worker that dies takes nothing with it: results are whole or not there, and the files that it had
are given to another one, which does not repeat those that have results.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import itertools
import logging
import socket
import threading
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from advconv_onnx.errors import AdvconvError, CheckError, InputError, MissingDependencyError
from advconv_onnx.preprocessing import Preprocessing
from advconv_onnx.records import FileFailure
from advconv_onnx.runner.job import Done, Job, work
from advconv_onnx.runner.session import Session
from advconv_onnx.runner.sources import Source

_FILES = 16
"""In one task, if a batch is not larger: what a worker that dies has to do again at most."""

_AHEAD = 2
"""Tasks for each thread of the cluster that are there at a time, however many files there are."""

_SECONDS = 20
"""That a scheduler and its first worker may take to answer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Cluster:
    """Who does the work.

    Attributes:
        address: of a scheduler, tcp://host:8786; None starts workers on this machine.
        size: how many workers to start.
    """

    address: str | None = None
    size: int = 2


@dataclasses.dataclass(frozen=True, slots=True)
class _Opening:
    """How a worker opens the session, and what tells that it has the same model."""

    model: str
    digest: str
    options: tuple[tuple[str, Any], ...]


def distribute(
    cluster: Cluster,
    session: Session,
    job: Job,
    sources: Iterable[Source],
    *,
    provider: str,
    threads: int | None,
) -> Iterator[Done]:
    """Let workers do what ``work`` does.

    Args:
        cluster: which.
        session: of the model that they open too.
        job: what is done with each file.
        sources: as many as there are; only some are looked at before the first are done.
        provider: where each worker runs the model.
        threads: of the session of each worker; None for one, as each of its threads runs it.

    Raises:
        InputError: no scheduler or no worker answers, a worker cannot read the model or write.
        CheckError: a worker cannot work, or the scheduler is lost.
        MissingDependencyError: Dask is not installed, or a provider does not work on a worker.
    """
    how = session.preprocessing
    options = {
        "preprocessing": how if isinstance(how, Preprocessing) else None,
        "provider": provider,
        "threads": threads or 1,
        "batch": session.batch,
    }
    opening = _Opening(str(session.path.absolute()), session.digest, tuple(options.items()))
    distributed = _import()
    with _client(distributed, cluster) as client:
        tasks = _Tasks(client, opening, job)
        done = distributed.as_completed(loop=client.loop)
        left = _chunks(sources, -(-_FILES // session.batch) * session.batch)
        for chunk in itertools.islice(left, _AHEAD * sum(client.nthreads().values())):
            done.add(tasks.submit(chunk))
        suspects: list[Source] = []
        for future in done:
            finished, lost = tasks.settle(future)
            yield from finished
            suspects += lost
            done.update(map(tasks.submit, itertools.islice(left, 1)))
        for source in suspects:  # alone, so that it is clear who kills a worker
            future = tasks.submit([source])
            distributed.wait(future)
            finished, lost = tasks.settle(future)
            why = "the workers that ran the model on it died"
            failures = tuple(FileFailure(str(each.path), why) for each in lost)
            yield from finished or [Done(0, failures, "", None)]


class _Tasks:
    """What the workers have been asked for."""

    def __init__(self, client: Any, opening: _Opening, job: Job) -> None:
        self._client, self._opening, self._job = client, opening, job
        self._chunks: dict[str, Sequence[Source]] = {}

    def submit(self, chunk: Sequence[Source]) -> Any:
        future = self._client.submit(_task, self._opening, self._job, chunk, pure=False)
        self._chunks[future.key] = chunk
        return future

    def settle(self, future: Any) -> tuple[Sequence[Done], Sequence[Source]]:
        """What a task has done, or the files that were with workers when these died."""
        chunk = self._chunks.pop(future.key)
        try:
            # That waits once more where a result was lost with its worker.
            return future.result(), []
        except AdvconvError:
            raise
        except Exception as error:
            if type(error).__name__ == "KilledWorker":
                return [], chunk
            raise CheckError(
                f"the workers cannot go on ({error or 'the scheduler is lost'}); what is written "
                "stays, and the same call goes on from there"
            ) from error


def _task(opening: _Opening, job: Job, chunk: Sequence[Source]) -> list[Done]:
    """Done by a worker. What one that died has written before is not done again."""
    todo = [s for s in chunk if job.form == "labels" or not job.target(s).exists()]
    there = Done(len(chunk) - len(todo), (), "", None)
    return [there, *work(_open(opening), job, todo)]


_opening = threading.Lock()


def _open(opening: _Opening) -> Session:
    with _opening:  # the threads of a worker share a session
        return _cached(opening)


@functools.lru_cache(maxsize=1)
def _cached(opening: _Opening) -> Session:
    session = Session(opening.model, **dict(opening.options))
    if session.digest != opening.digest:
        raise InputError(f"'{opening.model}' is another file where the worker is; copy it there")
    return session


def _chunks(sources: Iterable[Source], size: int) -> Iterator[list[Source]]:
    left = iter(sources)
    while chunk := list(itertools.islice(left, size)):
        yield chunk


def _import() -> Any:
    try:
        return importlib.import_module("distributed")
    except ImportError as error:
        raise MissingDependencyError(
            f"a cluster needs Dask ({error}); pip install 'advconv-onnx[dask]'"
        ) from error


@contextlib.contextmanager
def _client(distributed: Any, cluster: Cluster) -> Iterator[Any]:
    """Connect with a scheduler that has workers."""
    with contextlib.ExitStack() as stack:
        address: Any = cluster.address
        if address is None:
            address = stack.enter_context(_started(distributed, cluster.size))
        try:
            if cluster.address is not None:
                _check_answer(cluster.address)
            client = stack.enter_context(distributed.Client(address, timeout=_SECONDS))
            client.wait_for_workers(1, timeout=_SECONDS)
        except (OSError, ValueError) as error:  # a timeout is an OSError
            raise InputError(
                f"--scheduler '{cluster.address}': no scheduler with a worker answers there "
                f"({error}); start them with 'dask scheduler' and 'dask worker'"
            ) from error
        yield client


def _check_answer(address: str) -> None:
    """Connect once: a client that finds nobody leaves threads behind that wait for each other.

    Raises:
        OSError: nobody is there.
        ValueError: it is no address.
    """
    parts = urllib.parse.urlsplit(address if "://" in address else f"tcp://{address}")
    if not (parts.hostname and parts.port):
        raise ValueError("an address is tcp://HOST:PORT")
    socket.create_connection((parts.hostname, parts.port), timeout=_SECONDS).close()


@contextlib.contextmanager
def _started(distributed: Any, size: int) -> Iterator[Any]:
    """Workers on this machine."""
    start = functools.partial(
        distributed.LocalCluster,
        n_workers=size,
        threads_per_worker=1,
        dashboard_address=None,
        silence_logs=logging.CRITICAL,
    )
    # In a thread, which Ctrl-C does not reach: what is half started cannot be ended.
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(start)
        try:
            try:
                started = starting.result()
            except Exception as error:
                raise CheckError(f"the workers do not start: {error}") from error
            yield started
        finally:
            if starting.exception() is None:
                starting.result().close()
