"""Real inputs, and the ranges that tensors take on them.

Samples are read when they are needed, so that a folder of any size takes the memory of one. The
ranges are ours, as ONNX Runtime's calibrators keep every tensor of every sample, need equal sizes,
and with their defaults choose among one single threshold by entropy (onnxruntime 1.32).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from advconv_onnx.errors import InputError
from advconv_onnx.preprocessing import Preprocessing
from advconv_onnx.runner.inputs import Input, adopt
from advconv_onnx.runner.reading import read_file
from advconv_onnx.runner.sources import Source, Sources
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session

METHODS = ("minmax", "entropy", "percentile")

LABELS = "labels"
"""The array of right answers in an .npz, unless the model has an input of that name."""

_MOST_CALIBRATING, _MOST_JUDGING = 128, 512
"""Samples; more change ranges little, and accuracies by less than one in a hundred."""

_AT_ONCE = 128
"""Tensors taken out of a model in one run, whose values are all in memory."""

_BINS = 2048
_LEVELS = 128
"""Steps of half a range."""

_COUNTED = 1 << 13
"""Values of a tensor that are counted, of one sample."""

_PERCENT = 99.99
"""Of the values, which ``percentile`` keeps."""

_MOST_NAMED = 3
"""Files left out that are named one by one."""

Arrays = Mapping[str, np.ndarray]
Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Sample:
    """Inputs by name, and the right answer if the data has it."""

    inputs: Arrays
    label: np.ndarray | None = None


class Samples:
    """Samples that are read anew by each iteration; what cannot be read is left out.

    Attributes:
        lost: why, by what was left out.
    """

    def __init__(self, read: Callable[[int], Sample], indices: Sequence[int]) -> None:
        self._read = read
        self._indices = indices
        self.lost: dict[int, str] = {}

    def __iter__(self) -> Iterator[Sample]:
        for index in self._indices:
            if index not in self.lost:
                try:
                    sample = self._read(index)
                except InputError as error:
                    self.lost[index] = str(error)
                else:
                    yield sample

    def __len__(self) -> int:
        return len(self._indices) - len(self.lost)


@dataclasses.dataclass(frozen=True)
class Data:
    """Some samples to take ranges from, and others to judge by."""

    calibrating: Samples
    judging: Samples

    @property
    def notes(self) -> Iterator[str]:
        """What a reader must know; complete once all was read."""
        if self.calibrating is self.judging:
            yield "the only sample is also the one that ranges were taken from; give more"
        else:
            yield (
                f"ranges are those of {len(self.calibrating)} samples, "
                f"{len(self.judging)} others were kept to judge by"
            )
        lost = self.calibrating.lost | self.judging.lost
        if lost:
            named = "; ".join(list(lost.values())[:_MOST_NAMED])
            yield f"{len(lost)} files were left out: {named}"


def open_data(
    model: ir.Model,
    data: Arrays | str | os.PathLike[str],
    how: Preprocessing | Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Data:
    """Find samples, and share them out at random.

    Args:
        model: what the samples are for.
        data: arrays by input name, which are cut along their first axis into batches of the
            model's; or a folder whose pictures, .npy and .npz are one sample each.
        how: is done to pictures.
        seed: of the shares.

    Raises:
        InputError: there is nothing, or it does not fit the model.
    """
    session = open_session(model)
    inputs = list(map(Input.of, session.get_inputs()))
    if isinstance(data, Mapping):
        if how:
            raise InputError("--data has arrays; --resize, --mean and the like are for pictures")
        count, read = _from_arrays(data, inputs)
    else:
        count, read = _from_folder(Path(data), inputs, how or {})
    order = np.random.default_rng(seed).permutation(count).tolist()
    if count == 1:
        only = Samples(read, order)
        found = Data(only, only)
    else:
        judging = min(-(-count // 4), _MOST_JUDGING)
        rest = order[judging : judging + _MOST_CALIBRATING]
        found = Data(Samples(read, rest), Samples(read, order[:judging]))
    for samples in (found.calibrating, found.judging):
        if next(iter(samples), None) is None:
            raise InputError(f"nothing in --data can be used: {next(iter(samples.lost.values()))}")
    return found


def _from_arrays(data: Arrays, inputs: Sequence[Input]) -> tuple[int, Callable[[int], Sample]]:
    """Cut arrays into batches; one that is a single batch goes with all of the others."""
    known = {each.name: each for each in inputs}
    if missing := known.keys() - data.keys():
        raise InputError(f"--data has no '{min(missing)}', an input of the model; add it")
    if extra := data.keys() - known.keys() - {LABELS}:
        raise InputError(f"--data has '{min(extra)}', which is no input of the model; leave it out")
    parts: dict[str, list[np.ndarray]] = {}
    for name, to in known.items():
        array = adopt(data[name], to, f"--data '{name}'")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"--data '{name}' has NaN or infinite values; ranges need numbers")
        parts[name] = _batches(array, to)
    count = max(len(batches) for batches in parts.values())
    for name, batches in parts.items():
        if len(batches) not in (1, count):
            raise InputError(f"--data '{name}' has {len(batches)} samples, others have {count}")
    labels = None
    if LABELS in data.keys() - known.keys():
        answers = np.atleast_1d(data[LABELS])
        if not len(answers) or len(answers) % count:
            raise InputError(
                f"--data '{LABELS}' has {len(answers)} answers for {count} samples; give one each"
            )
        labels = np.split(answers, count)

    def read(index: int) -> Sample:
        chosen = {name: batches[min(index, len(batches) - 1)] for name, batches in parts.items()}
        return Sample(chosen, None if labels is None else labels[index])

    return count, read


def _batches(array: np.ndarray, to: Input) -> list[np.ndarray]:
    first = to.dims[0] if to.dims else None
    if len(to.dims) < 2 and not isinstance(first, int):
        return [array]
    batch = first if isinstance(first, int) else 1
    if not len(array) or len(array) % batch:
        raise InputError(
            f"--data '{to.name}' has {len(array)} rows; the model takes {batch} at a time"
        )
    return np.split(array, len(array) // batch)


def _from_folder(
    folder: Path, inputs: Sequence[Input], how: Preprocessing | Mapping[str, Any]
) -> tuple[int, Callable[[int], Sample]]:
    paths = [found.path for found in Sources([folder]) if isinstance(found, Source)]
    if not paths:
        raise InputError(f"--data '{folder}' has no pictures and no .npy or .npz in it")

    def read(index: int) -> Sample:
        given = read_file(paths[index], inputs, how).inputs
        for name, array in given.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise InputError(f"'{paths[index]}': '{name}' has NaN or infinite values")
        return Sample({each.name: _repeated(given[each.name], each) for each in inputs})

    return len(paths), read


def _repeated(array: np.ndarray, to: Input) -> np.ndarray:
    """One sample as often as the model's batch wants it."""
    batch = to.dims[0] if to.dims else None
    return array.repeat(batch, 0) if isinstance(batch, int) and len(array) == 1 else array


def ranges(
    model: ir.Model,
    tensors: Sequence[str],
    samples: Iterable[Sample],
    method: str,
    threads: int | None = None,
) -> dict[str, Range]:
    """The lowest and the highest value that tensors are to represent.

    Args:
        model: stays as it is.
        tensors: names of inputs, and of values of the main graph.
        samples: are gone through several times.
        method: ``minmax``: all values; ``percentile``: 99.99 % of them, half of the rest on either
            side; ``entropy``: up to the magnitude at which a histogram loses least information
            in 8 bits (https://on-demand.gputechconf.com/gtc/2017/presentation/s7310).
        threads: intra-op threads; None for one per physical core.

    Returns:
        NaN or infinity for tensors that have such values.
    """
    found: dict[str, Range] = {}
    for start in range(0, len(tensors), _AT_ONCE):
        names = tensors[start : start + _AT_ONCE]
        session = open_session(_with_outputs(model, names), threads=threads)

        def values(names: Sequence[str] = names, session: Any = session) -> Iterator[Arrays]:
            for sample in samples:
                yield {**sample.inputs, **run_session(session, sample.inputs)}

        found |= _limits(values, names, method)
    return found


def _with_outputs(model: ir.Model, names: Sequence[str]) -> ir.Model:
    copy = model.clone()
    inside = {value.name: value for node in copy.graph for value in node.outputs}
    wanted = [inside[name] for name in names if name in inside]
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(wanted or inside.values())
    return copy


def _limits(
    values: Callable[[], Iterator[Arrays]], names: Sequence[str], method: str
) -> dict[str, Range]:
    limits = dict.fromkeys(names, (np.inf, -np.inf))
    for arrays in values():
        for name, (low, high) in limits.items():
            array = arrays[name]
            # Of numpy's, as Python's would drop NaN.
            low = float(np.minimum(low, array.min(initial=np.inf)))
            limits[name] = low, float(np.maximum(high, array.max(initial=-np.inf)))
    if method == "minmax":
        return limits
    usable = {name: limit for name, limit in limits.items() if np.isfinite(limit).all()}
    counts = {name: np.zeros(_BINS, np.int64) for name in usable}
    spans = {name: _span(limit, method) for name, limit in usable.items()}
    for arrays in values():
        for name, span in spans.items():
            array = arrays[name].ravel()
            array = array[:: max(1, array.size // _COUNTED) | 1]
            array = np.abs(array) if method == "entropy" else array
            counts[name] += np.histogram(array, _BINS, span)[0]
    return limits | {
        name: _narrowed(limit, spans[name], counts[name], method) for name, limit in usable.items()
    }


def _span(limit: Range, method: str) -> Range:
    """Of the histogram."""
    low, high = limit
    return (0.0, max(-low, high)) if method == "entropy" else (low, high)


def _narrowed(limit: Range, span: Range, counts: np.ndarray, method: str) -> Range:
    low, high = limit
    if low == high:
        return limit
    if method == "entropy":
        largest = span[1] * _best_size(counts) / _BINS
        return max(low, -largest), min(high, largest)
    edges = np.linspace(*span, _BINS + 1)
    shares = np.cumsum([0, *counts]) / counts.sum()
    rest = (1 - _PERCENT / 100) / 2
    # The last edge below which no more than the rest lies, and the first above.
    first = int(np.searchsorted(shares, rest, "right")) - 1
    last = int(np.searchsorted(shares, 1 - rest, "left"))
    return float(edges[first]), float(edges[last])


def _best_size(counts: np.ndarray) -> int:
    """How many bins to keep, the rest being counted as the last one, to lose least information."""
    # Zeros, of which activations make many, are exact however wide the steps are.
    counts = np.concatenate([counts[1:2], counts[1:]])
    sizes = range(_LEVELS, _BINS + 1, _LEVELS // 8)
    return min(sizes, key=lambda size: _divergence(counts, size))


def _divergence(counts: np.ndarray, size: int) -> float:
    """Kullback-Leibler divergence of the clipped histogram from what the levels can tell of it."""
    kept = counts[:size].astype(np.float64)
    clipped = kept.copy()
    clipped[-1] += counts[size:].sum()
    starts = np.arange(_LEVELS) * size // _LEVELS
    filled = np.maximum(np.add.reduceat(kept > 0, starts, dtype=np.int64), 1)
    level = np.repeat(np.add.reduceat(kept, starts) / filled, np.diff([*starts, size]))
    told = np.where(kept > 0, level, 0)
    some = clipped > 0
    if not told.any():
        return np.inf
    share, known = clipped[some] / clipped.sum(), np.maximum(told[some] / told.sum(), 1e-12)
    return float((share * np.log(share / known)).sum())
