"""Pictures as arrays."""

from __future__ import annotations

import dataclasses
import functools
import io
import os
from typing import Any

import numpy as np

from advconv_onnx.errors import InputError, MissingDependencyError
from advconv_onnx.preprocessing import Preprocessing

try:
    from PIL import Image, ImageOps, UnidentifiedImageError
except ImportError:  # whoever has arrays only needs no pictures
    Image = None  # type: ignore[assignment]

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What pillow may take a file for. Others run programs (PostScript) or are no pictures."""

_MOST_PIXELS = 178_956_970
"""Pixels of a picture, read or resized, beyond which it is an attack: pillow's own limit."""


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """Where what a model sees lies in a picture.

    Attributes:
        size: height and width of the upright picture.
        resized: height and width after resizing.
        crop: top, left, height and width of the part that is left.
    """

    size: tuple[int, int]
    resized: tuple[int, int]
    crop: tuple[int, int, int, int]


def read_picture(path: str | os.PathLike[str], how: Preprocessing) -> tuple[np.ndarray, Frame]:
    """Read, turn upright, resize and crop a picture.

    What is transparent is seen as if it were not, 16 bits per channel lose their lower 8, and of an
    animation the first picture is taken.

    Returns:
        Pixels (height, width, channels), uint8; where they lie in the picture.

    Raises:
        InputError: no picture is there, it is damaged, or it is smaller than the crop.
        MissingDependencyError: pillow is not installed.
    """
    require_pillow()
    try:
        with Image.open(path, formats=_FORMATS) as file:
            # Cameras say in the file how they were held.
            upright = _in_8_bits(ImageOps.exif_transpose(file), file.format)
            picture = upright.convert("L" if how.channels == "L" else "RGB")
    except InputError as error:
        raise InputError(f"cannot read '{path}' as a picture: {error}") from error
    except Exception as error:  # a damaged file makes decoders raise anything
        raise InputError(f"cannot read '{path}' as a picture: {_reason(error)}") from error
    resized = _resized(picture, how, path)
    cropped, (left, top) = _cropped(resized, how, path)
    pixels = np.asarray(cropped)
    pixels = pixels[..., None] if how.channels == "L" else pixels
    pixels = np.ascontiguousarray(pixels[..., ::-1] if how.channels == "BGR" else pixels)
    frame = Frame(picture.size[::-1], resized.size[::-1], (top, left, *cropped.size[::-1]))
    return pixels, frame


def read_pixels(path: str | os.PathLike[str], how: Preprocessing) -> np.ndarray:
    """The pixels of ``read_picture`` alone."""
    return read_picture(path, how)[0]


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


def encode_mask(classes: np.ndarray) -> bytes:
    """Write classes as a PNG: with a palette up to 256 of them, else in 16 bits of grey.

    Args:
        classes: (height, width), integers from 0 to 65535.

    Raises:
        MissingDependencyError: pillow is not installed.
    """
    require_pillow()
    content = io.BytesIO()
    if classes.max(initial=0) < 256:
        picture = Image.fromarray(classes.astype(np.uint8), "L")
        picture.putpalette(_palette())
    else:
        picture = Image.fromarray(classes.astype(np.uint16))
    picture.save(content, "PNG")
    return content.getvalue()


def require_pillow() -> None:
    """Refuse to go on without pillow.

    Raises:
        MissingDependencyError: it is not installed.
    """
    if Image is None:
        raise MissingDependencyError("pictures need pillow; pip install 'advconv-onnx[images]'")


@functools.cache
def _palette() -> bytes:
    """Colours far apart for classes that are near: the bits of a number, spread over the channels.

    Those of the PASCAL VOC segmentations, which other tools show too.
    """
    numbers = np.arange(256)
    colours = [
        sum(((numbers >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(3))
        for channel in range(3)
    ]
    return np.stack(colours, 1).astype(np.uint8).tobytes()


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is none, or of a format that is not read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _in_8_bits(picture: Any, format: str | None) -> Any:
    # Pillow itself cuts 16 bits off at 255. Portable greymaps of 16 bits come in 32.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and format == "PPM"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise InputError("its pixels are 32-bit numbers of an unknown range; save it as .npy")
    # Pillow warns about palettes with transparency that are not converted like this.
    return picture.convert("RGBA") if "transparency" in picture.info else picture


def _resized(picture: Any, how: Preprocessing, path: str | os.PathLike[str]) -> Any:
    if how.resize is None:
        return picture
    if isinstance(how.resize, int):
        # The side that is not asked for is cut to whole pixels, as torchvision does.
        shorter = min(picture.size)
        width, height = (max(1, side * how.resize // shorter) for side in picture.size)
    else:
        height, width = how.resize
    if height * width > _MOST_PIXELS:
        raise InputError(
            f"'{path}' has {picture.height}x{picture.width} pixels, resized it had "
            f"{height}x{width}; give --resize a height and a width"
        )
    return picture.resize((width, height), Image.Resampling.BILINEAR)


def _cropped(
    picture: Any, how: Preprocessing, path: str | os.PathLike[str]
) -> tuple[Any, tuple[int, int]]:
    """The middle of a picture, and how far its corner is from the left and the top."""
    if how.crop is None:
        return picture, (0, 0)
    height, width = how.crop
    if picture.width < width or picture.height < height:
        raise InputError(
            f"'{path}' has {picture.height}x{picture.width} pixels, less than --crop "
            f"{height}x{width}; resize it first with --resize"
        )
    top, left = round((picture.height - height) / 2), round((picture.width - width) / 2)
    return picture.crop((left, top, left + width, top + height)), (left, top)
