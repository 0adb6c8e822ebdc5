"""A model, ready to run on arrays and on files."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advconv_onnx import model as files
from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.preprocessing import Preprocessing
from advconv_onnx.runner import bundle
from advconv_onnx.runner.ahead import ahead
from advconv_onnx.runner.inputs import Input, adopt, fit
from advconv_onnx.runner.manifest import LABELS, MANIFEST, MODEL
from advconv_onnx.runner.reading import Item, read_file, read_input
from advconv_onnx.runner.sources import Source
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session

Outputs = dict[str, np.ndarray]

_READERS = 2
"""Threads that read files while the model runs: decoding leaves Python's lock alone."""

_WAITING = 4
"""Batches of files of unequal sizes that wait until one of a size is full."""


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What became of one file: its outputs, or why there are none."""

    source: Source
    item: Item | None
    outputs: Outputs | InputError | CheckError


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Files that went through the model together.

    Attributes:
        ms: of the inference; None where there was none.
    """

    results: Sequence[Result]
    ms: float | None


class Session:
    """A model, ready to run on arrays and on files.

    Attributes:
        path: of the model.
        inputs: what the model takes.
        preprocessing: of pictures; a mapping of what was said about it where the model takes none.
        labels: of the classes, from a bundle; may be empty.
        batch: how many files an inference takes at most.
        digest: SHA-256 of the model and of what belongs to it.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        preprocessing: Preprocessing | Mapping[str, Any] | None = None,
        provider: str = "cpu",
        threads: int | None = None,
        batch: int | None = None,
    ) -> None:
        """Open a model.

        Args:
            model: an .onnx or .ort file, or a bundle (folder or .zip), which is checked first.
            preprocessing: of pictures; of a mapping, the fields that it has replace those of the
                bundle. What is not given follows from the model's input.
            provider: cpu, cuda, tensorrt or openvino.
            threads: intra-op threads; None for one per physical core.
            batch: files that go through the model together, if its batch is dynamic; 1 by default.

        Raises:
            InputError: there is no such model, or what was asked for does not fit it.
            CheckError: ONNX Runtime does not load it, or a bundle was changed.
            MissingDependencyError: the provider does not work here.
        """
        self.path = path = Path(model)
        options: dict[str, Any] = {"provider": provider, "threads": threads}
        known: Mapping[str, Any] = {}
        self.labels: tuple[str, ...] = ()
        if path.is_dir() or path.suffix == ".zip":
            with bundle.opened(path) as (folder, manifest):
                self._session = open_session(folder / MODEL, **options)
                self.digest = files.sha256(folder / MANIFEST)
                known = manifest.get("preprocessing") or {}
                if (folder / LABELS).exists():
                    self.labels = read_labels(folder / LABELS)
        else:
            self.digest = _checked(path)
            self._session = open_session(path, **options)
        if not isinstance(preprocessing, Preprocessing):
            preprocessing = {**_tuples(known), **(preprocessing or {})}
        self.inputs = tuple(map(Input.of, self._session.get_inputs()))
        self.preprocessing = self._fitted(preprocessing)
        self._fixed = self._fixed_batch()
        self.batch = self._checked_batch(batch)

    def __call__(self, inputs: np.ndarray | Mapping[str, np.ndarray]) -> Outputs:
        """Run the model once.

        Args:
            inputs: an array, or arrays by the names of the inputs, as the model takes them: nothing
                is done to pixels. An axis for the batch is added where only that is missing.

        Raises:
            InputError: an array does not fit.
            CheckError: the model does not run on them.
        """
        if not isinstance(inputs, Mapping):
            inputs = {self._only_input.name: inputs}
        if inputs.keys() != {each.name for each in self.inputs}:
            names = ", ".join(each.name for each in self.inputs)
            raise InputError(f"arrays are given for {', '.join(inputs)}; the model takes {names}")
        return self._run_once(
            {i.name: adopt(np.asarray(inputs[i.name]), i, "the array") for i in self.inputs}
        )

    def read(self, name: str, path: str | os.PathLike[str]) -> np.ndarray:
        """Read a picture, an .npy or an .npz for one of the inputs.

        Raises:
            InputError: there is no such input, or the file does not fit it.
        """
        for each in self.inputs:
            if each.name == name:
                return read_input(Path(path), each, self.preprocessing)[0]
        names = ", ".join(each.name for each in self.inputs)
        raise InputError(f"--input '{name}': the model has no such input; it has {names}")

    def run_files(
        self, paths: Iterable[str | os.PathLike[str]]
    ) -> Iterator[tuple[Path, Outputs | InputError | CheckError]]:
        """Run the model on pictures, arrays (.npy) or mappings (.npz), a bounded number in memory.

        Yields:
            A path, and the outputs of its file with the axis of the batch, or the error that says
            why there are none; files of a batch together, so not always in order.
        """
        for done in self.batches(Source(Path(path), str(path)) for path in paths):
            for result in done.results:
                yield result.source.path, result.outputs

    def batches(self, sources: Iterable[Source]) -> Iterator[Batch]:
        """Run the model on files, of equal sizes together; those that cannot be read come alone."""
        waiting: dict[object, list[tuple[Source, Item]]] = {}
        most = self.batch + _READERS
        for source, item in ahead(self._read, sources, threads=_READERS, most=most):
            if not isinstance(item, Item):
                yield Batch([Result(source, None, item)], None)
                continue
            shapes = tuple(array.shape for array in item.inputs.values())
            group = waiting.setdefault(shapes, [])
            group.append((source, item))
            if len(group) * max(shapes[0][:1], default=1) >= self.batch:
                yield self._run(waiting.pop(shapes))
            elif sum(map(len, waiting.values())) >= _WAITING * self.batch:
                yield self._run(waiting.pop(next(iter(waiting))))
        for group in waiting.values():
            yield self._run(group)

    def _read(self, source: Source) -> tuple[Source, Item | InputError]:
        try:
            return source, read_file(source.path, self.inputs, self.preprocessing)
        except InputError as error:
            return source, error

    def _run(self, group: Sequence[tuple[Source, Item]]) -> Batch:
        start = time.perf_counter()
        found: Sequence[Outputs | CheckError | InputError]
        try:
            found = self._infer([item for _, item in group])
        except CheckError as error:
            # Whose fault it was is not known: each is tried alone.
            alone = [self._run([each]) for each in group] if len(group) > 1 else []
            found = [result.outputs for batch in alone for result in batch.results] or [error]
        ms = 1e3 * (time.perf_counter() - start)
        results = [Result(*each, outputs) for each, outputs in zip(group, found, strict=True)]
        return Batch(results, ms)

    def _infer(self, items: Sequence[Item]) -> list[Outputs]:
        """The outputs of each item, of one inference."""
        if len(self.inputs) > 1:
            return [self._run_once(item.inputs) for item in items]
        name = self._only_input.name
        arrays = [item.inputs[name] for item in items]
        rows = [len(array) for array in arrays]
        # Of a fixed batch the rest is filled with what is there; nobody reads its outputs.
        missing = (self._fixed or 0) - sum(rows)
        if missing > 0 and rows == [1] * len(rows):
            arrays.append(np.repeat(arrays[-1], missing, axis=0))
        joined = np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
        outputs = self._run_once({name: joined})
        if len(arrays) == 1:
            return [outputs]
        for key, array in outputs.items():
            if array.shape[:1] != joined.shape[:1]:
                raise InputError(
                    f"output '{key}' has the shape {'x'.join(map(str, array.shape))} for a batch "
                    f"of {len(joined)}: whose is what is not clear; run a batch of 1"
                )
        ends = itertools.accumulate(rows)
        return [
            {key: array[end - count : end] for key, array in outputs.items()}
            for end, count in zip(ends, rows, strict=True)
        ]

    def _run_once(self, inputs: Mapping[str, np.ndarray]) -> Outputs:
        outputs = run_session(self._session, inputs)
        for name, array in outputs.items():
            if not isinstance(array, np.ndarray):
                raise CheckError(f"output '{name}' is no tensor but a {type(array).__name__}")
        return outputs

    @property
    def _only_input(self) -> Input:
        if len(self.inputs) != 1:
            names = ", ".join(each.name for each in self.inputs)
            raise InputError(f"the model has inputs {names}; give an array for each, by its name")
        return self.inputs[0]

    def _fitted(
        self, given: Preprocessing | Mapping[str, Any]
    ) -> Preprocessing | Mapping[str, Any]:
        if len(self.inputs) != 1:
            return given  # it is fitted to whichever takes a picture
        try:
            return fit(given, self.inputs[0])
        except InputError:
            if given:
                raise
            return {}  # it takes arrays, or whoever gives it pictures is told

    def _fixed_batch(self) -> int | None:
        batch = self.inputs[0].dims[0] if self._is_batchable else 1
        return batch if isinstance(batch, int) else None

    @property
    def _is_batchable(self) -> bool:
        return len(self.inputs) == 1 and len(self.inputs[0].dims) > 1

    def _checked_batch(self, batch: int | None) -> int:
        if batch is not None and batch < 1:
            raise InputError(f"--batch {batch} is too few; use 1 or more")
        if batch is not None and self._fixed not in (None, batch):
            why = (
                f"the batch of {self.inputs[0]} is fixed"
                if self._is_batchable
                else "the model has several inputs, or one without a batch"
            )
            raise InputError(f"--batch {batch}: {why}; use --batch {self._fixed}")
        return batch or self._fixed or 1


def read_labels(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read a text file with a line for each class.

    Raises:
        InputError: it cannot be read, or is no text.
    """
    try:
        return tuple(Path(path).read_text(encoding="utf-8-sig").splitlines())
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is no text in UTF-8; write a line for each class") from error


def _checked(path: Path) -> str:
    """Refuse a file that cannot be run, in words of our own; return what tells it from others."""
    if path.suffix == ".ort":
        if not path.is_file():
            raise InputError(f"cannot read '{path}': there is no such file; check the path")
        return files.sha256(path)
    model = files.load(path)
    files.check_domains(model, str(path))
    parts = [path, *sorted(files.data_files(model))]
    return "-".join(files.sha256(part) for part in parts)


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a pre-processing as they were before they were JSON."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
