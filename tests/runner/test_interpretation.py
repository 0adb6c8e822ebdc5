"""Outputs as classes, by the rules of docs/running.md."""

from __future__ import annotations

import numpy as np
import pytest

from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.runner.interpretation import likeliest, mask, scores
from advconv_onnx.runner.pictures import Frame
from tests.parsing import normal


def whole(height: int, width: int) -> Frame:
    return Frame((height, width), (height, width), (0, 0, height, width))


@pytest.mark.parametrize(
    ("outputs", "shape"),
    [
        ({"y": normal(2, 5)}, (2, 5)),
        ({"y": normal(2, 5, 1, 1)}, (2, 5)),
        ({"y": normal(2, 1, 1, 5)}, (2, 5)),
        ({"map": normal(2, 5, 4, 4), "y": normal(2, 5)}, (2, 5)),
        ({"y": np.array([3, 1])}, (2,)),
        ({"y": np.array([[3], [1]])}, (2,)),
        ({"y": normal(1, 5).astype(np.float16)}, (1, 5)),
    ],
)
def test_the_output_with_classes(outputs: dict[str, np.ndarray], shape: tuple[int, ...]) -> None:
    assert scores(outputs).shape == shape


@pytest.mark.parametrize(
    "array", [normal(1, 5, 4, 4), np.float32(1)[...], normal(7), np.zeros((2, 5), int)]
)
def test_outputs_without_classes(array: np.ndarray) -> None:
    with pytest.raises(InputError, match="no output has a row of classes; there is 'y'"):
        scores({"y": array})


def test_the_softmax_is_taken_of_what_are_no_probabilities() -> None:
    torch = pytest.importorskip("torch")
    row = normal(9)
    expected = torch.softmax(torch.from_numpy(row).double(), 0)
    best = likeliest(row, 3)
    values, indices = expected.topk(3)
    assert [index for index, _ in best] == indices.tolist()
    np.testing.assert_allclose([part for _, part in best], values, rtol=1e-6)
    soft = expected.numpy()
    assert likeliest(soft, 3) == [(i, soft[i]) for i in indices.tolist()]
    # Quantized ones do not quite sum up to 1; what is further from it are no probabilities.
    assert likeliest(np.array([0.6, 0.39]), 1) == [(0, 0.6)]
    [(_, part)] = likeliest(np.array([0.6, 0.3]), 1)
    assert part == pytest.approx(1 / (1 + np.exp(-0.3)))


def test_large_scores_do_not_overflow() -> None:
    assert likeliest(np.array([1e4, -1e4], np.float32), 1) == [(0, 1.0)]
    assert likeliest(np.float32([2, 2, 1]), 9)[0][0] == 0  # of equal ones the first
    assert likeliest(np.array(7), 3) == [(7, None)]


def test_masks_are_the_largest_channel() -> None:
    array = normal(1, 5, 6, 7)
    expected = array.argmax(1)[0]
    np.testing.assert_array_equal(mask({"y": array}, "NCHW", whole(6, 7)), expected)
    last = array.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(mask({"y": last}, "NHWC", whole(6, 7)), expected)
    np.testing.assert_array_equal(
        mask({"scores": normal(1, 5), "y": expected[None]}, "NCHW", whole(6, 7)), expected
    )


def test_a_channel_alone_is_a_yes_or_a_no() -> None:
    logits = normal(1, 1, 6, 7)
    expected = (logits > 0)[0, 0]
    np.testing.assert_array_equal(mask({"y": logits}, "NCHW", whole(6, 7)), expected)
    probabilities = 1 / (1 + np.exp(-logits))
    np.testing.assert_array_equal(mask({"y": probabilities}, "NCHW", whole(6, 7)), expected)
    last = probabilities.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(mask({"y": last}, "NHWC", whole(6, 7)), expected)


def test_masks_are_as_large_as_the_picture() -> None:
    torch = pytest.importorskip("torch")
    array = np.arange(24, dtype=np.int64).reshape(1, 4, 6)
    for size in ((8, 12), (9, 17), (3, 5), (4, 6)):
        frame = Frame(size, (32, 48), (0, 0, 32, 48))
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(array)[None].double(), size=size, mode="nearest-exact"
        )
        np.testing.assert_array_equal(mask({"y": array}, "NCHW", frame), expected[0, 0])


def test_what_was_cut_away_is_no_class() -> None:
    array = np.ones((1, 4, 4), np.int64)
    # 10x20 pixels, resized to 6x12, of which 4x4 in the middle are seen.
    frame = Frame((10, 20), (6, 12), (1, 4, 4, 4))
    found = mask({"y": array}, "NCHW", frame)
    rows = (np.arange(10) + 0.5) * 0.6
    columns = (np.arange(20) + 0.5) * 0.6
    seen = np.logical_and.outer((rows >= 1) & (rows < 5), (columns >= 4) & (columns < 8))
    np.testing.assert_array_equal(found, np.where(seen, 1, 255))
    assert mask({"y": 300 * array}, "NCHW", frame)[0, 0] == 65535


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (normal(2, 5, 4, 4), "the file has 2 samples"),
        (np.full((1, 5, 4, 4), np.nan), "the output has NaN"),
        (np.full((1, 4, 4), -1), "no numbers from 0 to 65535"),
    ],
)
def test_masks_that_cannot_be(array: np.ndarray, message: str) -> None:
    with pytest.raises(CheckError, match=message):
        mask({"y": array}, "NCHW", whole(4, 4))
    for classes in (normal(1, 5), normal(1, 5, 1, 1)):
        with pytest.raises(InputError, match="no output has a picture"):
            mask({"y": classes}, "NCHW", whole(4, 4))


def test_nan_is_no_class() -> None:
    with pytest.raises(CheckError, match="NaN"):
        scores({"y": np.array([[1.0, np.nan]])})
