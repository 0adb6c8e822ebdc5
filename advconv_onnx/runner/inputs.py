"""What a model takes, and arrays and pictures made to fit it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from advconv_onnx.errors import InputError
from advconv_onnx.preprocessing import Preprocessing

_TYPES = {"float": "float32", "double": "float64", "string": "object"}
"""What ONNX Runtime calls otherwise than numpy."""

_PICTURES = ("float32", "float16", "float64", "uint8")
"""Types of inputs that take pictures."""

_CHANNELS = {1: "L", 3: "RGB"}


@dataclasses.dataclass(frozen=True, slots=True)
class Input:
    """One input of a model.

    Attributes:
        type: as ONNX Runtime spells it, "tensor(float)".
        dims: sizes; names or None where they are dynamic.
    """

    name: str
    type: str
    dims: tuple[int | str | None, ...]

    @classmethod
    def of(cls, argument: Any) -> Input:
        """Of one of the inputs that ONNX Runtime lists for a session."""
        return cls(argument.name, argument.type, tuple(argument.shape))

    @property
    def kind(self) -> str:
        """Its type as numpy calls it, "float32"."""
        inner = self.type.removeprefix("tensor(").removesuffix(")")
        return _TYPES.get(inner, inner)

    def __str__(self) -> str:
        dims = "x".join("?" if dim is None else str(dim) for dim in self.dims)
        return f"input '{self.name}', {self.kind}[{dims}]"


def adopt(array: np.ndarray, to: Input, what: str) -> np.ndarray:
    """Make an array fit an input: its precision, and one more axis in front if it lacks that.

    Args:
        array: floats of any precision for floats, integers that fit for integers.
        to: its first size, that of the batch, is not looked at.
        what: what messages call the array.

    Raises:
        InputError: the array is another one.
    """
    if array.ndim == len(to.dims) - 1:
        array = array[None]
    sizes = zip(array.shape[1:], to.dims[1:], strict=False)
    fits = array.ndim == len(to.dims) and all(
        size == dim for size, dim in sizes if isinstance(dim, int)
    )
    converted = _converted(array, to.kind)
    if converted is None or not fits:
        shape = "x".join(map(str, array.shape))
        raise InputError(f"{what} is {array.dtype}[{shape}], which does not fit {to}")
    return converted


def _converted(array: np.ndarray, kind: str) -> np.ndarray | None:
    if array.dtype == kind:
        return array
    try:
        wanted = np.dtype(kind)
    except TypeError:  # no type of numpy: ONNX Runtime says so
        return array
    families = ("f", "iu", "OUS")
    if not any(array.dtype.kind in family and wanted.kind in family for family in families):
        return None
    with np.errstate(over="ignore"):
        converted = array.astype(wanted)
    if wanted.kind == "f":
        same = np.array_equal(np.isinf(converted), np.isinf(array))
    else:
        same = np.array_equal(converted, array)
    return converted if same else None


def fit(how: Preprocessing | Mapping[str, Any], to: Input) -> Preprocessing:
    """Complete a pre-processing by what an input says about itself.

    Its sizes give the layout and the channels, and the size that pictures are resized to if nothing
    else gives them one.

    Args:
        how: the whole pre-processing, or those of its fields that are known.
        to: an input that takes pictures.

    Raises:
        InputError: the input takes no pictures, or others.
    """
    if len(to.dims) != 4 or to.kind not in _PICTURES:
        raise InputError(f"{to} takes no pictures; give it .npy or .npz")
    fields = dict(how) if isinstance(how, Mapping) else dataclasses.asdict(how)
    likely = _layout(to)
    layout = fields.setdefault("layout", likely)
    if layout is None:
        raise InputError(f"{to}: where its channels are is not clear; give --layout NCHW or NHWC")
    last = layout == "NHWC"
    size, channels = (to.dims[1:3], to.dims[3]) if last else (to.dims[2:4], to.dims[1])
    if likely not in (None, layout) and not isinstance(channels, int):
        raise InputError(f"{to}: {layout} does not fit it; give --layout {likely}")
    if isinstance(channels, int):
        fields.setdefault("channels", _CHANNELS.get(channels, "RGB"))
    fitted = Preprocessing(**fields)
    if isinstance(channels, int) and channels != fitted.count:
        raise InputError(
            f"{to}: {fitted.layout} means {channels} channels, {fitted.channels} has "
            f"{fitted.count}; give another --layout or --channels"
        )
    if to.kind == "uint8":
        _check_plain(fitted, to)
    return _sized(fitted, to, size)


def _layout(to: Input) -> str | None:
    for layout, channels in (("NCHW", to.dims[1]), ("NHWC", to.dims[3])):
        if channels in _CHANNELS:
            return layout
    return None


def _check_plain(how: Preprocessing, to: Input) -> None:
    if any(how.mean) or set(how.std) != {1.0} or how.scale not in (1.0, 1 / 255):
        raise InputError(f"{to} takes pixels as they are; leave out --scale, --mean and --std")


def _sized(how: Preprocessing, to: Input, size: tuple[int | str | None, ...]) -> Preprocessing:
    height, width = size
    if not (isinstance(height, int) and isinstance(width, int)):
        return how
    given = how.crop or how.resize
    if given is None:
        return dataclasses.replace(how, resize=(height, width))
    if given != (height, width):
        spelled = given if isinstance(given, int) else "x".join(map(str, given))
        advice = "--crop" if isinstance(given, int) else "--resize"
        raise InputError(
            f"{to}: pictures of {spelled} pixels do not fit; give {advice} {height}x{width}"
        )
    return how
