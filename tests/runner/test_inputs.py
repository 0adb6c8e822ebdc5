"""Arrays and pre-processing fitted to what a model says about its input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from advconv_onnx.errors import InputError
from advconv_onnx.preprocessing import Preprocessing
from advconv_onnx.runner.inputs import Input, adopt, fit

FREE = Input("x", "tensor(float)", ("N", 3, "H", "W"))
FIXED = Input("x", "tensor(float)", (1, 3, 32, 48))
LAST = Input("x", "tensor(float16)", ("N", 32, 48, 3))
UNCLEAR = Input("x", "tensor(float)", (1, 4, 4, None))
BYTES = Input("x", "tensor(uint8)", (1, None, None, 1))


@pytest.mark.parametrize(
    ("array", "to", "kind", "shape"),
    [
        (np.zeros((2, 3, 8, 8)), FREE, "float32", (2, 3, 8, 8)),
        (np.zeros((3, 8, 8), np.float16), FREE, "float32", (1, 3, 8, 8)),
        (np.arange(3), Input("n", "tensor(int32)", ("N",)), "int32", (3,)),
        (np.array(3), Input("n", "tensor(int64)", ()), "int64", ()),
        (np.array([True]), Input("n", "tensor(bool)", ("N",)), "bool", (1,)),
        (np.array([np.inf]), Input("n", "tensor(float)", ("N",)), "float32", (1,)),
    ],
)
def test_arrays_that_fit(array: np.ndarray, to: Input, kind: str, shape: tuple[int, ...]) -> None:
    got = adopt(array, to, "it")
    assert (got.dtype, got.shape) == (kind, shape)
    np.testing.assert_array_equal(got.ravel(), array.ravel())


@pytest.mark.parametrize(
    ("array", "to"),
    [
        (np.zeros((1, 3, 8, 8), np.uint8), FREE),  # pixels are not scaled unseen
        (np.zeros((1, 1, 3, 8, 8), np.float32), FREE),
        (np.zeros((8, 8), np.float32), FREE),
        (np.zeros((1, 4, 8, 8), np.float32), FREE),
        (np.zeros((1, 3, 32, 47), np.float32), FIXED),
        (np.array([300]), Input("n", "tensor(uint8)", ("N",))),
        (np.array([-1]), Input("n", "tensor(uint64)", ("N",))),
        (np.array([1e300]), Input("n", "tensor(float)", ("N",))),
        (np.array([1]), Input("n", "tensor(bool)", ("N",))),
    ],
)
def test_arrays_that_do_not_fit(array: np.ndarray, to: Input) -> None:
    with pytest.raises(InputError, match=r"^it is .* does not fit input '.'"):
        adopt(array, to, "it")


@pytest.mark.parametrize(
    ("given", "to", "expected"),
    [
        ({}, FREE, Preprocessing()),
        ({}, FIXED, Preprocessing(resize=(32, 48))),
        ({}, LAST, Preprocessing(resize=(32, 48), layout="NHWC")),
        ({}, BYTES, Preprocessing(channels="L", layout="NHWC")),
        ({"crop": (32, 48), "resize": 64}, FIXED, Preprocessing(resize=64, crop=(32, 48))),
        ({"channels": "BGR"}, FREE, Preprocessing(channels="BGR")),
        ({"layout": "NHWC"}, UNCLEAR, Preprocessing(layout="NHWC", resize=(4, 4))),
        (Preprocessing(std=(0.5,)), FIXED, Preprocessing(std=(0.5,), resize=(32, 48))),
        ({"scale": 1.0}, BYTES, Preprocessing(channels="L", layout="NHWC", scale=1.0)),
    ],
)
def test_what_is_not_said_follows_from_the_input(
    given: Any, to: Input, expected: Preprocessing
) -> None:
    assert fit(given, to) == expected
    assert fit(expected, to) == expected


@pytest.mark.parametrize(
    ("given", "to", "message"),
    [
        ({}, Input("x", "tensor(float)", ("N", 40)), "takes no pictures; give it .npy"),
        ({}, Input("x", "tensor(int64)", ("N", 3, 4, 4)), "takes no pictures"),
        ({}, Input("x", "tensor(float)", ("N", 64, "H", "W")), "--layout NCHW or NHWC"),
        ({"layout": "NHWC"}, FREE, "NHWC does not fit it; give --layout NCHW"),
        ({"layout": "NCHW"}, LAST, "NCHW means 32 channels, RGB has 3"),
        ({"channels": "L"}, FREE, "NCHW means 3 channels, L has 1"),
        ({"resize": (32, 32)}, FIXED, "32x32 pixels do not fit; give --resize 32x48"),
        ({"resize": 32}, FIXED, "32 pixels do not fit; give --crop 32x48"),
        ({"mean": (0.5,)}, BYTES, "leave out --scale, --mean and --std"),
        ({"std": (0.5,)}, BYTES, "leave out --scale, --mean and --std"),
        ({"scale": 1 / 256}, BYTES, "leave out --scale, --mean and --std"),
    ],
)
def test_what_does_not_fit_is_refused(given: Any, to: Input, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(given, to)
