"""Outputs as classes: the likeliest ones of a whole picture, or one for each pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.runner.pictures import Frame

_SUM_ERROR = 0.02
"""How far the sum of probabilities may be from 1, as quantized ones are."""

_OUTSIDE = {8: 255, 16: 65535}
"""Class of what was cut away, by the bits of a pixel."""


def scores(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The first output with one row of classes for each sample, or one class for each.

    Returns:
        (samples, classes) of numbers, or (samples,) of integers: the model has chosen.

    Raises:
        InputError: there is no such output.
        CheckError: it has NaN.
    """
    for array in outputs.values():
        sizes = array.shape[:1] + tuple(size for size in array.shape[1:] if size > 1)
        if array.ndim and array.dtype.kind in "iu" and len(sizes) == 1:
            return array.reshape(len(array))
        if array.ndim > 1 and array.dtype.kind == "f" and len(sizes) == 2:
            return _without_nan(array.reshape(sizes))
    raise InputError(f"no output has a row of classes; there is {_spelled(outputs)}")


def likeliest(row: np.ndarray, count: int) -> list[tuple[int, float | None]]:
    """The classes with the largest scores, and their probabilities.

    A row whose values lie within 0 and 1 and sum up to 1 holds probabilities, of any other the
    softmax is taken.

    >>> likeliest(np.array([0.25, 0.75]), 1), likeliest(np.log([1.0, 3.0]), 1)
    ([(1, 0.75)], [(1, 0.75)])

    Args:
        row: (classes,), or one class, which has no probability.
        count: how many.
    """
    if not row.ndim:
        return [(int(row), None)]
    values = row.astype(np.float64)
    if not ((values >= 0).all() and (values <= 1).all() and abs(values.sum() - 1) <= _SUM_ERROR):
        values = np.exp(values - values.max())
        values /= values.sum()
    order = np.argsort(-row, kind="stable")[:count]
    return [(int(index), float(values[index])) for index in order]


def mask(outputs: Mapping[str, np.ndarray], layout: str, frame: Frame) -> np.ndarray:
    """The class of each pixel of a picture.

    The first output is taken that has height and width: four axes, of integers also three. Of
    several channels the largest counts; one alone is a yes above 0.5 where its values lie within 0
    and 1, above 0 elsewhere; integers are classes.

    Args:
        outputs: of one sample.
        layout: "NCHW" or "NHWC".
        frame: where the output lies in the picture.

    Returns:
        (height, width) of the picture, integers; what the model did not see is 255, or 65535 where
        there are more classes.

    Raises:
        InputError: there is no such output.
        CheckError: it has NaN, or belongs to several samples.
    """
    for array in outputs.values():
        is_picture = sum(size > 1 for size in array.shape[1:]) > 1  # not one class for all of it
        if is_picture and (array.ndim == 4 or (array.ndim == 3 and array.dtype.kind in "iu")):
            return _enlarged(_classes(array, layout), frame)
    raise InputError(f"no output has a picture; there is {_spelled(outputs)}")


def _classes(array: NDArray[Any], layout: str) -> NDArray[Any]:
    if len(array) != 1:
        raise CheckError(f"the file has {len(array)} samples; a mask is made of one")
    channels = 1 if layout == "NCHW" else 3
    if array.ndim == 4 and array.shape[channels] > 1:
        largest: NDArray[Any] = _without_nan(array)[0].argmax(channels - 1)
        return largest
    values = _without_nan(array[0].squeeze(channels - 1) if array.ndim == 4 else array[0])
    if values.dtype.kind != "f":
        if values.size and not 0 <= values.min() <= values.max() <= _OUTSIDE[16]:
            raise CheckError("the output has classes that are no numbers from 0 to 65535")
        return values
    is_probability = values.size and values.min() >= 0 and values.max() <= 1
    return values > (0.5 if is_probability else 0)


def _enlarged(classes: np.ndarray, frame: Frame) -> np.ndarray:
    """For each pixel of the picture, the class of the place that it is nearest to."""
    top, left, height, width = frame.crop
    rows = _places(frame.size[0], frame.resized[0], top, height, classes.shape[0])
    columns = _places(frame.size[1], frame.resized[1], left, width, classes.shape[1])
    whole = classes.astype(np.int64)[np.ix_(rows, columns)]
    seen = np.logical_and.outer(rows >= 0, columns >= 0)
    return np.where(seen, whole, _OUTSIDE[8 if classes.max(initial=0) < _OUTSIDE[8] else 16])


def _places(pixels: int, resized: int, start: int, length: int, cells: int) -> np.ndarray:
    """The cell that each pixel of a side lies in; -1 outside."""
    # Centres of the pixels in twice as many parts as there are: whole numbers have no rounding.
    centres = (2 * np.arange(pixels) + 1) * resized - 2 * pixels * start
    end = 2 * pixels * length
    return np.where((centres >= 0) & (centres < end), centres * cells // end, -1)


def _without_nan(array: np.ndarray) -> np.ndarray:
    if np.isnan(array).any():
        raise CheckError("the output has NaN")
    return array


def _spelled(outputs: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"'{n}' {a.dtype}[{'x'.join(map(str, a.shape))}]" for n, a in outputs.items())
