"""Text of the command line as options of layers and networks."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import onnx_ir as ir
import pytest

from advconv_onnx.arguments import parse_options, spell_options
from advconv_onnx.errors import InputError

OPTIONS = {
    "size": (int, inspect.Parameter.empty),
    "channels": (int, None),
    "kernel_shape": (int | Sequence[int], 3),
    "rates": (Sequence[int] | None, None),
    "scale": (float | Sequence[float] | None, None),
    "like": (ir.Value | None, None),
    "width": (float, 1.0),
    "bias": (bool | str, True),
    "activation": (str | None, None),
    "decoder": (Literal["transposed", "upsample"], "transposed"),
    "between": (dict, None),
}


def parse(*arguments: str) -> dict[str, Any]:
    return parse_options(["--size=1", *arguments], OPTIONS, "conv")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {}),
        (["--channels", "8", "--kernel-shape=3,5"], {"channels": 8, "kernel_shape": (3, 5)}),
        (["--kernel_shape", "7"], {"kernel_shape": 7}),
        (["--rates", "6"], {"rates": (6,)}),
        (["--rates", "none"], {"rates": None}),
        (["--channels", "-1"], {"channels": -1}),
        (["--width", "1"], {"width": 1.0}),
        (["--scale", "1.5"], {"scale": 1.5}),
        (["--scale", "2,1.5"], {"scale": (2.0, 1.5)}),
        (["--width", "0.35"], {"width": 0.35}),
        (["--bias"], {"bias": True}),
        (["--bias", "no"], {"bias": False}),
        (["--bias", "zeros", "--activation", "SiLU"], {"bias": "zeros", "activation": "SiLU"}),
        (["--bias", "--decoder", "upsample"], {"bias": True, "decoder": "upsample"}),
    ],
)
def test_reads(arguments: list[str], expected: dict[str, Any]) -> None:
    assert parse(*arguments) == {"size": 1, **expected}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--channels", "8.5"], "--channels '8.5': give an integer"),
        (["--channels"], "--channels '': give an integer"),
        (["--kernel-shape", "3,x"], "give an integer or integers with commas between them"),
        (["--width", "wide"], "--width 'wide': give a number"),
        (["--decoder", "bilinear"], "give transposed or upsample"),
        (["--between", "{}"], "give it in Python; it has no text form"),
        (["--kernel", "3"], "no option '--kernel'; it has --size, --channels, --kernel-shape"),
        (["8"], "conv has no option '8'"),
        (["--width", "1", "--width", "2"], "--width is given twice"),
    ],
)
def test_refuses_with_what_is_possible(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(*arguments)


def test_spells_what_has_a_text_form() -> None:
    text = spell_options(OPTIONS)
    assert text.startswith(
        "--size (required), --channels, --kernel-shape 3, --rates, --scale, --width 1.0"
    )
    assert "between" not in text


def test_says_what_is_missing() -> None:
    with pytest.raises(InputError, match="conv needs --size: give an integer"):
        parse_options([], OPTIONS, "conv")
