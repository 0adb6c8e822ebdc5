"""What is done to a picture before a model sees it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from advconv_onnx.errors import InputError

_CHANNELS = {"RGB": 3, "BGR": 3, "L": 1}


@dataclasses.dataclass(frozen=True, slots=True)
class Preprocessing:
    """What is done to a picture of 8 bits per channel before a model sees it, in this order.

    Attributes:
        resize: length of the shorter side in pixels, the ratio of the sides kept, or (height,
            width); None leaves the size. Bilinear, and averaging where it shrinks.
        crop: (height, width) cut out of the middle; None cuts nothing.
        channels: "RGB", "BGR" or "L" (grey).
        scale: factor of the pixels; 1 / 255 for values from 0 to 1.
        mean: subtracted from each channel after scaling; one number holds for all channels.
        std: what each channel is divided by then.
        layout: "NCHW" or "NHWC".
    """

    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    channels: str = "RGB"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "NCHW"

    def __post_init__(self) -> None:
        """Refuse what cannot be done to any picture.

        Raises:
            InputError: naming the option.
        """
        if self.channels not in _CHANNELS:
            raise InputError(f"--channels '{self.channels}' is unknown; use RGB, BGR or L")
        if self.layout not in ("NCHW", "NHWC"):
            raise InputError(f"--layout '{self.layout}' is unknown; use NCHW or NHWC")
        sizes = (self.resize,) if isinstance(self.resize, int) else self.resize or ()
        if any(size < 1 for size in (*sizes, *(self.crop or ()))):
            raise InputError("--resize and --crop are numbers of pixels, 1 or more")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) not in (1, self.count):
                raise InputError(
                    f"--{name} has {len(values)} numbers; give one, or one for each of the "
                    f"{self.count} channels of {self.channels}"
                )
        numbers = (self.scale, *self.mean, *self.std)
        if not all(map(math.isfinite, numbers)) or 0 in (self.scale, *self.std):
            raise InputError("--scale, --mean and --std are finite, and only --mean may be 0")

    @property
    def count(self) -> int:
        """How many channels a pixel has."""
        return _CHANNELS[self.channels]

    def __str__(self) -> str:
        """In words, in its order: "resized to 224x224, RGB, times 0.00392157, NCHW"."""
        steps = [self.channels, f"times {self.scale:g}"]
        if self.crop is not None:
            steps.insert(0, f"cropped to {_spell(self.crop)}")
        if isinstance(self.resize, int):
            steps.insert(0, f"resized to {self.resize} at the shorter side")
        elif self.resize is not None:
            steps.insert(0, f"resized to {_spell(self.resize)}")
        if any(self.mean):
            steps.append(f"less {', '.join(f'{value:g}' for value in self.mean)}")
        if set(self.std) != {1.0}:
            steps.append(f"over {', '.join(f'{value:g}' for value in self.std)}")
        return ", ".join([*steps, self.layout])

    @classmethod
    def from_mapping(cls, fields: Mapping[str, Any]) -> Preprocessing:
        """Read what ``dataclasses.asdict`` made, by way of JSON too.

        Raises:
            InputError: the fields are others.
        """
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
        }
        try:
            return cls(**plain)
        except (TypeError, AttributeError) as error:
            raise InputError(f"this is no pre-processing of pictures: {error}") from error


def parse_fields(**options: str | None) -> dict[str, Any]:
    """Read options as they are typed: the fields that were given, without those that are None.

    >>> parse_fields(resize="256", crop="224x224", scale="1/255", std=None)
    {'resize': 256, 'crop': (224, 224), 'scale': 0.00392156862745098}

    Raises:
        InputError: naming the option that makes no sense.
    """
    return {name: _parse(name, text) for name, text in options.items() if text is not None}


def _spell(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _parse(name: str, text: str) -> Any:
    try:
        if name == "resize" and text.isdigit():
            return int(text)
        if name in ("resize", "crop"):
            height, width = map(int, text.split("x"))
            return height, width
        if name == "scale":
            return float(Fraction(text))
        if name in ("mean", "std"):
            return tuple(map(float, text.split(",")))
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"--{name} '{text}' is not {_EXPECTED[name]}") from error
    return text


_EXPECTED = {
    "resize": "the shorter side or HEIGHTxWIDTH in pixels, such as 256 or 224x224",
    "crop": "HEIGHTxWIDTH in pixels, such as 224x224",
    "scale": "a number or a fraction, such as 1/255",
    "mean": "a number for each channel, such as 0.485,0.456,0.406",
    "std": "a number for each channel, such as 0.229,0.224,0.225",
}
