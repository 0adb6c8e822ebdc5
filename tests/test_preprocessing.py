"""Pre-processing as it is typed, kept and told."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from advconv_onnx.errors import InputError
from advconv_onnx.preprocessing import Preprocessing, parse_fields


def test_options_as_they_are_typed() -> None:
    found = parse_fields(
        resize="256", crop="224x192", channels="BGR", scale="1/128", mean="1,2,3", std="0.5",
        layout="NHWC",
    )  # fmt: skip
    assert Preprocessing(**found) == Preprocessing(
        256, (224, 192), "BGR", 1 / 128, (1.0, 2.0, 3.0), (0.5,), "NHWC"
    )
    assert parse_fields(resize="8x9", mean=None) == {"resize": (8, 9)}


def test_it_is_the_same_after_json() -> None:
    for how in (Preprocessing(), Preprocessing((8, 9), (4, 5), std=(1.0, 2.0, 3.0))):
        text = json.dumps(dataclasses.asdict(how))
        assert Preprocessing.from_mapping(json.loads(text)) == how


def test_it_is_told_in_its_order() -> None:
    how = Preprocessing(256, (224, 192), mean=(0.5,), std=(0.1, 0.2, 0.3), scale=1.0)
    assert str(how) == (
        "resized to 256 at the shorter side, cropped to 224x192, RGB, times 1, less 0.5, "
        "over 0.1, 0.2, 0.3, NCHW"
    )
    assert str(Preprocessing((8, 9))) == "resized to 8x9, RGB, times 0.00392157, NCHW"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": "CMYK"}, "--channels 'CMYK' is unknown"),
        ({"layout": "CHWN"}, "--layout 'CHWN' is unknown"),
        ({"resize": 0}, "1 or more"),
        ({"crop": (4, -1)}, "1 or more"),
        ({"mean": (1.0, 2.0)}, "--mean has 2 numbers; give one, or one for each of the 3"),
        ({"channels": "L", "std": (1.0, 1.0, 1.0)}, "--std has 3 numbers"),
        ({"std": (0.0,)}, "only --mean may be 0"),
        ({"scale": float("nan")}, "are finite"),
        ({"colour": "RGB"}, "no pre-processing of pictures"),
        ({"crop": "8x8"}, "no pre-processing of pictures"),
    ],
)
def test_what_makes_no_sense(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Preprocessing.from_mapping(fields)


@pytest.mark.parametrize(
    ("option", "text"),
    [("resize", "8x"), ("crop", "8"), ("scale", "1/0"), ("mean", "a,b"), ("std", "")],
)
def test_what_cannot_be_read(option: str, text: str) -> None:
    with pytest.raises(InputError, match=f"--{option} '{text}' is not "):
        parse_fields(**{option: text})
