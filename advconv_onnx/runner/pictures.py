"""Pictures as arrays."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np

from advconv_onnx.errors import InputError, MissingDependencyError
from advconv_onnx.preprocessing import Preprocessing

try:
    from PIL import Image, ImageOps
except ImportError as error:
    raise MissingDependencyError(
        f"reading pictures needs pillow ({error}); pip install 'advconv-onnx[images]'"
    ) from error


def read_pixels(path: str | os.PathLike[str], how: Preprocessing) -> np.ndarray:
    """Read, turn upright, resize and crop a picture.

    Returns:
        (height, width, channels), uint8.

    Raises:
        InputError: no picture is there, it is damaged, or it is smaller than the crop.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as file:
            # Cameras say in the file how they were held.
            picture = ImageOps.exif_transpose(file).convert("L" if how.channels == "L" else "RGB")
    except OSError as error:  # pillow's own errors among them
        raise InputError(f"cannot read '{path}' as a picture: {_reason(error)}") from error
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read '{path}' as a picture: {error}") from error
    picture = _cropped(_resized(picture, how), how, path)
    pixels = np.asarray(picture)
    pixels = pixels[..., None] if how.channels == "L" else pixels
    return np.ascontiguousarray(pixels[..., ::-1] if how.channels == "BGR" else pixels)


def normalize(pixels: np.ndarray, how: Preprocessing) -> np.ndarray:
    """Scale pixels, subtract the mean, divide by the deviation, and bring them into the layout.

    Args:
        pixels: (..., height, width, channels), uint8.
        how: computed in float32, in its order.

    Returns:
        (..., channels, height, width), or as they were for "NHWC"; float32.
    """
    mean, std = (np.asarray(values, np.float32) for values in (how.mean, how.std))
    values = (pixels * np.float32(how.scale) - mean) / std
    if how.layout == "NCHW":
        values = np.moveaxis(values, -1, -3)
    return np.ascontiguousarray(values, np.float32)


def _reason(error: OSError) -> str:
    return error.strerror or str(error).split(" '")[0] or type(error).__name__


def _resized(picture: Any, how: Preprocessing) -> Any:
    if how.resize is None:
        return picture
    if isinstance(how.resize, int):
        factor = how.resize / min(picture.size)
        # The side that is not asked for is cut to whole pixels, as torchvision does.
        size = tuple(max(1, int(side * factor + 1e-9)) for side in picture.size)
    else:
        size = how.resize[::-1]
    return picture.resize(size, Image.Resampling.BILINEAR)


def _cropped(picture: Any, how: Preprocessing, path: str | os.PathLike[str]) -> Any:
    if how.crop is None:
        return picture
    height, width = how.crop
    if picture.width < width or picture.height < height:
        raise InputError(
            f"'{path}' has {picture.height}x{picture.width} pixels, less than --crop "
            f"{height}x{width}; resize it first with --resize"
        )
    top, left = round((picture.height - height) / 2), round((picture.width - width) / 2)
    return picture.crop((left, top, left + width, top + height))
