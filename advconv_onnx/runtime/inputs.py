"""Seeded inputs for a model: shapes that provoke mistakes, values that make real networks react."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session

Array = NDArray[Any]
Runs = Callable[[Mapping[str, Array]], bool]
Distribution = Callable[[np.random.Generator, tuple[int, ...]], Array]

BINDINGS = 3
"""How many different bindings of the dynamic dimensions are kept."""

_IMAGES = ((33, 47), (64, 96), (48, 160), (96, 32), (48, 192), (112, 112), (224, 224), (256, 320))
"""Height and width: odd ones, multiples of 32, text lines 48 high, sizes of classifiers."""

_SIGNALS = (4001, 1025, 576, 288, 512, 256, 16000, 44100, 160, 33)
"""Lengths of sampled signals: odd ones, windows of speech models at 8 and 16 kHz, a second."""

_FRAMES = (33, 64, 100, 17, 128, 256)
"""Lengths of sequences of feature vectors."""

_FEATURES = 8
"""More values than this per step make a sequence one of feature vectors."""

_INTEGER_SCALARS = (16000, 1)
"""Speech models branch on the sampling rate; other models are content with a small number."""

_INTEGERS_BELOW = 8
"""Integer tensors are mostly indices: small enough for any vocabulary."""

_MOST_ELEMENTS = 1 << 22
"""Larger inputs than this are not tried once smaller or equally large ones were found."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One set of inputs, and their shapes as ``spell_shapes`` tells them."""

    inputs: Mapping[str, Array]
    shape: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Input:
    """A graph input; each dynamic dimension is a symbol, an unnamed one has a symbol of its own."""

    name: str
    dtype: np.dtype[Any]
    dims: tuple[int | str, ...]


def runnable_samples(
    model: ir.Model,
    *,
    seed: int = 0,
    threads: int | None = None,
    data: Mapping[str, Array] | None = None,
    sparing: bool = False,
) -> tuple[Sample, ...]:
    """Draw inputs that ONNX Runtime runs the model with, finite results preferred.

    Args:
        model: stays as it is.
        seed: same seed, same inputs.
        threads: intra-op threads; None for one per physical core.
        data: arrays used as they are; only the other inputs are drawn.
        sparing: spare memory, not time: ONNX Runtime then makes no copies of the weights.

    Raises:
        CheckError: the model does not load.
        InputError: it runs with no shape that was tried, or ``data`` does not fit it.
    """
    session = open_session(
        model, threads=threads, graph_optimizations=not sparing, prepacking=not sparing
    )

    def runs(inputs: Mapping[str, Array], *, finite: bool) -> bool:
        try:
            outputs = run_session(session, inputs)
        except CheckError:
            return False
        return not finite or all(map(_is_finite, outputs.values()))

    try:
        return draw(model, functools.partial(runs, finite=True), seed=seed, data=data)
    except InputError:
        return draw(model, functools.partial(runs, finite=False), seed=seed, data=data)


def _is_finite(value: Array) -> bool:
    is_float = isinstance(value, np.ndarray) and value.dtype.kind == "f"
    return not is_float or bool(np.isfinite(value).all())


def largest_sample(
    model: ir.Model,
    *,
    seed: int = 0,
    threads: int | None = None,
    data: Mapping[str, Array] | None = None,
) -> Sample:
    """Return the largest of the runnable samples, which is the one to time a model with.

    Arguments and errors are those of ``runnable_samples``.
    """
    return largest(runnable_samples(model, seed=seed, threads=threads, data=data))


def largest(samples: Sequence[Sample]) -> Sample:
    """Return the sample with most elements."""
    return max(samples, key=lambda sample: sum(array.size for array in sample.inputs.values()))


def draw(
    model: ir.Model, runs: Runs, *, seed: int = 0, data: Mapping[str, Array] | None = None
) -> tuple[Sample, ...]:
    """Draw inputs of several shapes and, for each shape, of several distributions.

    Every dynamic dimension takes up to ``BINDINGS`` sizes out of a ladder: one name has one size
    everywhere, unnamed dimensions are independent. Shapes the model does not run with are skipped.

    Args:
        model: its graph inputs are what is drawn.
        runs: tells whether the model runs with some inputs.
        seed: same seed, same inputs.
        data: arrays used as they are; only the other inputs are drawn.

    Raises:
        InputError: the model runs with no shape of the ladder, an input's type or rank is unknown,
            or ``data`` does not fit the model.
    """
    data = data or {}
    specs = [_describe(value) for value in model.graph.inputs]
    known = _fit(specs, data)
    drawn = [spec for spec in specs if spec.name not in data]
    given = {spec.name: data[spec.name] for spec in specs if spec.name in data}
    samples: list[Sample] = []
    has_integer_scalar = any(spec.dtype.kind in "iu" and not spec.dims for spec in drawn)
    for integer in _INTEGER_SCALARS if has_integer_scalar else (1,):
        kept = 0
        tried: set[tuple[tuple[int, ...], ...]] = set()
        for image, signal, frames in _ladder(model):
            if kept == BINDINGS:
                break
            rung = image, (signal,), (frames,)
            for shapes in _shapes(drawn, known, *rung, batches=(kept + 1, 1)):
                is_large = sum(map(math.prod, shapes)) > _MOST_ELEMENTS
                if shapes in tried or (is_large and samples):
                    continue
                tried.add(shapes)
                found = list(_fill(drawn, shapes, given, integer, [seed, len(samples)]))
                if runs(found[0].inputs):
                    samples += found
                    kept += 1
                    break
    if not samples:
        inputs = ", ".join(f"{s.name}={'x'.join(map(str, s.dims)) or 'scalar'}" for s in specs)
        raise InputError(
            f"the model runs with none of the inputs tried ({inputs}); "
            "give shapes with --input NAME=SHAPE or arrays with --data FILE.npz"
        )
    return tuple(samples)


def _describe(value: ir.Value) -> _Input:
    name = value.name or ""
    if value.shape is None or value.dtype is None or value.dtype == ir.DataType.STRING:
        raise InputError(
            f"input '{name}' is no numeric tensor of known rank; give its shape with "
            f"--input {name}=SHAPE or its values with --data FILE.npz"
        )
    dims: list[int | str] = []
    for axis, dim in enumerate(value.shape):
        size = dim.value if isinstance(dim, ir.SymbolicDim) else dim
        is_unknown = not size or size == "?" or (isinstance(size, int) and size < 1)
        dims.append(f"{name}.{axis}" if is_unknown or size is None else size)
    return _Input(name, value.dtype.numpy(), tuple(dims))


def _fit(specs: Sequence[_Input], data: Mapping[str, Array]) -> dict[str, int]:
    """Check arrays against the inputs they are for; return the sizes they give to symbols."""
    by_name = {spec.name: spec for spec in specs}
    known: dict[str, int] = {}
    for name, array in data.items():
        if name not in by_name:
            raise InputError(
                f"--data has '{name}', which is no input of the model; "
                f"its inputs are {', '.join(by_name)}"
            )
        spec = by_name[name]
        fits = array.dtype == spec.dtype and len(array.shape) == len(spec.dims)
        for size, dim in zip(array.shape, spec.dims, strict=False):
            expected = known.setdefault(dim, size) if isinstance(dim, str) else dim
            fits = fits and size == expected
        if not fits:
            raise InputError(
                f"--data '{name}' is {array.dtype}[{'x'.join(map(str, array.shape))}], the model "
                f"wants {spec.dtype}[{'x'.join(map(str, spec.dims))}]; convert the array"
            )
    return known


def _ladder(model: ir.Model) -> Iterator[tuple[tuple[int, int], int, int]]:
    """Yield the image size, the signal length and the number of frames of every attempt.

    The second image makes height and width equal to the channels behind the first convolution,
    where a parameter applied along the wrong axis goes unnoticed by shape checks.
    """
    images = list(_IMAGES)
    for node in model.graph:
        if node.op_type != "Conv" or node.inputs[1] is None:
            continue
        weight = ir.convenience.get_const_tensor(node.inputs[1])
        stride = node.attributes.get_ints("strides", (1,))[0]
        size = weight.numpy().shape[0] * stride if weight is not None else 0
        if 32 <= size <= 256:
            images.insert(1, (size, size))
        break
    for index in range(len(_SIGNALS)):
        yield images[index % len(images)], _SIGNALS[index], _FRAMES[index % len(_FRAMES)]


def _shapes(
    specs: Sequence[_Input],
    known: Mapping[str, int],
    image: tuple[int, ...],
    signal: tuple[int, ...],
    frames: tuple[int, ...],
    batches: Sequence[int],
) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Yield the inputs' shapes for one rung, with every batch size, in three readings.

    Dimensions of different names or inputs are first given different sizes, then equal ones; then
    all inputs but the first are read as states, whose dimensions follow the batch.
    """
    readings = ("apart", "alike", "states")
    for batch, reading in itertools.product(dict.fromkeys(batches), readings):
        sizes = dict(known)
        for spec in specs:
            if len(spec.dims) > 1 and isinstance(spec.dims[0], str):
                sizes.setdefault(spec.dims[0], batch)
        for position, spec in enumerate(specs):
            free = [dim for dim in spec.dims if isinstance(dim, str) and dim not in sizes]
            if reading == "states" and position > 0:
                fitting: tuple[int, ...] = (batch,)
            elif len(free) > 1:
                fitting = image
            elif len(spec.dims) > 3:
                fitting = image[1:]
            else:
                features = math.prod(dim for dim in spec.dims if isinstance(dim, int))
                fitting = frames if features > _FEATURES else signal
            shift = position if reading == "apart" else 0
            for dim, size in zip(free, itertools.cycle(fitting), strict=False):
                sizes[dim] = size + shift
        yield tuple(
            tuple(sizes[dim] if isinstance(dim, str) else dim for dim in spec.dims)
            for spec in specs
        )


def _fill(
    specs: Sequence[_Input],
    shapes: Sequence[tuple[int, ...]],
    given: Mapping[str, Array],
    integer: int,
    seed: Sequence[int],
) -> Iterator[Sample]:
    """Yield a sample of these shapes per distribution; just one when nothing is left to draw."""
    rng = np.random.default_rng(seed)
    for distribution in _DISTRIBUTIONS if specs else _DISTRIBUTIONS[:1]:
        inputs = dict(given)
        # Scalars are mostly limits or scales, the lower one first.
        limits = (rng.uniform(1, 2) * 100**position for position in itertools.count())
        for spec, shape in zip(specs, shapes, strict=True):
            values: Any
            if spec.dtype.kind == "b":
                values = rng.random(shape) < 0.5
            elif spec.dtype == np.uint8 and len(shape) > 2:
                values = _pixels(rng, shape, distribution)
            elif spec.dtype.kind in "iu":
                largest = int(np.iinfo(spec.dtype).max)
                values = rng.integers(0, _INTEGERS_BELOW, shape) if shape else min(integer, largest)
            else:
                values = distribution(rng, shape) if shape else next(limits)
            inputs[spec.name] = np.asarray(values, spec.dtype)
        yield Sample(inputs, spell_shapes(inputs))


def spell_shapes(inputs: Mapping[str, Array]) -> str:
    """Return the shapes of arrays as text, "x=1x3x33x47"; of integer scalars the value."""
    return ", ".join(f"{name}={_text(array)}" for name, array in inputs.items())


def _text(array: Array) -> str:
    if array.shape:
        return "x".join(map(str, array.shape))
    return "scalar" if array.dtype.kind == "f" else str(array.item())


def _pixels(rng: np.random.Generator, shape: tuple[int, ...], draw: Distribution) -> Array:
    """Draw a picture of 8 bits, its channels last where they are 1 or 3."""
    if shape[-1] in (1, 3):
        planes = draw(rng, (*shape[:-3], shape[-1], *shape[-3:-1]))
        values = np.moveaxis(planes, -3, -1)
    else:
        values = draw(rng, shape)
    return np.clip(np.rint(127.5 + 127.5 * values), 0, 255)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.standard_normal(shape)


def _uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.uniform(-1, 1, shape)


def _structured(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Draw what detectors look for: dark lines of text on a bright page, or a chord."""
    if len(shape) < 3:
        time = np.arange(shape[-1])
        waves = (np.sin(time * step + rng.random()) for step in rng.uniform(0.01, 0.3, 4))
        return np.broadcast_to(sum(waves, 0.02 * rng.standard_normal(shape)) / 4, shape)
    height, width = shape[-2:]
    strokes = rng.random((-(-height // 3), -(-width // 3))) < 0.5
    ink = np.kron(strokes, np.ones((3, 3), bool))[:height, :width]
    row, column = np.ogrid[:height, :width]
    lines, letters = (row % 24 >= 6) & (row % 24 < 18), column % 9 < 7
    return np.where(ink & lines & letters, -1.0, 1.0) + 0.05 * rng.standard_normal(shape)


_DISTRIBUTIONS = (_normal, _uniform, _structured)
