"""Processes that hold one model each and take turns, round by round."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from advconv_onnx.errors import CheckError
from advconv_onnx.runtime.engine import resolve_threads
from advconv_onnx.runtime.pool import Pool
from advconv_onnx.runtime.worker import Worker

Nanoseconds = NDArray[np.int64]


class Field:
    """Workers by name, in the order given.

    Attributes:
        running: names of those still in the race.
        failures: why others are not.
    """

    def __init__(self, workers: Mapping[str, Worker], baselines: tuple[str, ...]) -> None:
        """Take workers that were told what to load.

        Args:
            workers: by name.
            baselines: names of those without which there is nothing to compare.
        """
        self._workers = workers
        self._baselines = baselines
        self.running = list(workers)
        self.failures: dict[str, str] = {}

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        models: Mapping[str, os.PathLike[str]],
        inputs: Mapping[str, np.ndarray],
        baselines: tuple[str, ...],
        *,
        threads: int | None,
        pool: Pool | None = None,
        **options: Any,
    ) -> Iterator[Self]:
        """Load models, each in a process of its own.

        Args:
            models: files by name; all take ``inputs``.
            inputs: the arrays of one inference by input name.
            baselines: names of those without which there is nothing to compare.
            threads: intra-op threads; None for one per physical core this process may use.
            pool: of processes to use and to leave for others; None for fresh ones.
            options: further ones of ``Worker.load``.

        Raises:
            CheckError: a baseline does not load.
        """
        with (
            tempfile.TemporaryDirectory(prefix="advconv-") as folder,
            contextlib.ExitStack() as stack,
        ):
            arrays = str(Path(folder, "inputs.npz"))
            np.savez(arrays, *inputs.values())
            pool = pool or stack.enter_context(Pool())
            workers = {name: stack.enter_context(pool.lend()) for name in models}
            for name, worker in workers.items():
                model = os.fspath(models[name])
                count = resolve_threads(threads)
                worker.load(model, list(inputs), arrays, threads=count, **options)
            field = cls(workers, baselines)
            for name in workers:
                try:
                    workers[name].wait_until_loaded()
                except CheckError as error:
                    field._drop(name, error)
            yield field

    def run_round(self, rng: np.random.Generator) -> list[int]:
        """Give each worker its turn, in random order; return nanoseconds, 0 for one that is out.

        Raises:
            CheckError: a baseline does not run.
        """
        row = dict.fromkeys(self._workers, 0)
        for index in rng.permutation(len(self.running)):
            name = self.running[index]
            try:
                row[name] = self._workers[name].time_inference()
            except CheckError as error:
                self._drop(name, error)
        return list(row.values())

    def _drop(self, name: str, error: CheckError) -> None:
        if name in self._baselines:
            raise CheckError(f"cannot time {self._baselines[0]!r}: {error}") from error
        self.running = [other for other in self.running if other != name]
        self.failures[name] = str(error)
