"""Files as what a model takes."""

from __future__ import annotations

import dataclasses
import stat
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advconv_onnx.errors import InputError
from advconv_onnx.preprocessing import Preprocessing
from advconv_onnx.runner.inputs import Input, adopt, fit
from advconv_onnx.runner.pictures import Frame, normalize, read_picture

_LARGEST = 1 << 32
"""Bytes that the arrays of a file may have: a few kilobytes can be packed from many more."""


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One file, ready for a model.

    Attributes:
        inputs: by name, with the axis of the batch.
        frame: where what the model sees lies in a picture; None for arrays.
    """

    inputs: Mapping[str, np.ndarray]
    frame: Frame | None = None


def read_file(path: Path, inputs: Sequence[Input], how: Preprocessing | Mapping[str, Any]) -> Item:
    """Read all that one inference takes: a picture, an array, or an .npz with one for each input.

    Args:
        path: what does not end in .npy or .npz is a picture.
        inputs: of the model.
        how: pre-processing of pictures, as for ``fit``.

    Raises:
        InputError: the file is damaged, or holds something else.
    """
    if len(inputs) == 1:
        array, frame = read_input(path, inputs[0], how)
        return Item({inputs[0].name: array}, frame)
    names = ", ".join(each.name for each in inputs)
    if path.suffix.lower() != ".npz":
        raise InputError(f"'{path}' is for one input, the model has {names}; save an .npz of them")
    arrays = _load(path)
    if missing := [each.name for each in inputs if each.name not in arrays]:
        raise InputError(f"'{path}' has no '{missing[0]}'; the model's inputs are {names}")
    return Item({each.name: adopt(arrays[each.name], each, f"'{path}'") for each in inputs})


def read_input(
    path: Path, to: Input, how: Preprocessing | Mapping[str, Any]
) -> tuple[np.ndarray, Frame | None]:
    """Read one input: a picture, an array, or the array of its name, or the only one, in an .npz.

    Raises:
        InputError: the file is damaged, or holds something else.
    """
    _check_regular(path)
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        arrays = _load(path)
        array = next(iter(arrays.values())) if len(arrays) == 1 else arrays.get(to.name)
        if array is None:
            raise InputError(f"'{path}' has no array '{to.name}'; it has {', '.join(arrays)}")
        return adopt(array, to, f"'{path}'"), None
    fitted = fit(how, to)
    pixels, frame = read_picture(path, fitted)
    if to.kind == "uint8":
        values = pixels if fitted.layout == "NHWC" else np.moveaxis(pixels, -1, 0)
    else:
        values = normalize(pixels, fitted).astype(to.kind, copy=False)
    return values[None], frame


def _check_regular(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror or error}") from error
    if not stat.S_ISREG(mode):  # a pipe would be waited for
        raise InputError(f"cannot read '{path}': it is no regular file")


def _load(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file; the one of an .npy has no name."""
    try:
        if path.suffix.lower() == ".npy":
            return {"": np.load(path, allow_pickle=False)}
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > _LARGEST:
                raise InputError(f"'{path}' has more than {_LARGEST >> 30} GiB; split it")
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"'{path}' does not fit into memory; split it") from error
    except Exception as error:  # a damaged file makes zip and numpy raise anything
        raise InputError(f"cannot read '{path}' as arrays of numbers: {error}") from error
