"""Weights of trained networks under the names torch gives them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from advconv_onnx.errors import InputError
from advconv_onnx.layers.initializers import Array

_BOOKKEEPING = "num_batches_tracked"
"""Counters of BatchNormalization that only training reads."""


def read_state_dict(
    source: Mapping[str, Any] | str | os.PathLike[str], training_only: Sequence[str] = ()
) -> dict[str, Array]:
    """Read the arrays that inference needs.

    Args:
        source: arrays by name (anything numpy makes an array of), or a safetensors file.
        training_only: beginnings of names to leave out, of heads that only training has.

    Raises:
        InputError: the file cannot be read or is no safetensors file, or a value is no array.
    """
    if not isinstance(source, Mapping | str | os.PathLike):
        raise InputError(
            f"a {type(source).__name__} is no state dict; give arrays by name, as "
            "module.state_dict() has them, or the path of a safetensors file"
        )
    arrays = source if isinstance(source, Mapping) else _read_file(source)
    strange = next((name for name in arrays if not isinstance(name, str)), None)
    if strange is not None:
        raise InputError(f"the state dict has the name {strange!r}; names are text")
    return {
        name: _as_array(name, array)
        for name, array in arrays.items()
        if not name.endswith(_BOOKKEEPING) and not name.startswith(tuple(training_only))
    }


def _read_file(path: str | os.PathLike[str]) -> dict[str, Array]:
    if os.path.isdir(path):
        raise InputError(f"cannot read '{path}': it is a folder; give a safetensors file")
    try:
        return safetensors.numpy.load_file(path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot read '{path}': {reason}; give a safetensors file") from error
    except (safetensors.SafetensorError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"'{path}' is no safetensors file that numpy can hold ({error}); write a torch state "
            "dict with safetensors.torch.save_file, in float32"
        ) from error


def _as_array(name: str, value: Any) -> Array:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"'{name}' does not become an array ({error}); give arrays, or tensors after "
            ".detach().cpu().float()"
        ) from error
    if array.dtype.name == "bfloat16":
        return array.astype(np.float32)
    if array.dtype.kind != "f":
        held = type(value).__name__ if array.dtype == object else array.dtype
        raise InputError(
            f"'{name}' holds {held}; give floating-point numbers, and the inner dict where a "
            "checkpoint has several"
        )
    return array
