"""The reading sample as its reader runs it, and its pre- and post-processing on made-up arrays."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import numpy as np
import pytest
import read_text
from fetch_models import Unavailable, model_path
from PIL import Image


def test_reads_the_same_before_and_after(
    run_sample: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    try:
        model_path("ppocr_det")
    except Unavailable as error:
        pytest.skip(str(error))
    run = run_sample("read_text.py", "Grouped and dilated 3x3")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("'Grouped and dilated 3x3'") == 3  # rendered, original, optimized
    assert "Both agree." in run.stdout


def test_unavailable_models_are_one_line(
    no_registry: object, run_sample: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    run = run_sample("read_text.py")
    assert run.returncode == 2
    assert run.stderr.startswith("cannot fetch rapidocr-onnxruntime==1.4.4")
    assert len(run.stderr.splitlines()) == 1


def test_boxes_grow_and_specks_are_dropped() -> None:
    heat = np.zeros((40, 60))
    heat[10:20, 20:40] = 0.9  # 10 x 20, to grow by 200 * 1.6 / 60 = 5.3
    heat[30:34, 2:6] = 0.31  # 4 x 4, to grow by 16 * 1.6 / 16 = 1.6
    heat[0:2, 50:60] = 0.9
    heat[30:34, 30:34] = 0.3
    assert read_text.find_boxes(heat) == [(0, 28, 8, 36), (15, 5, 45, 25)]


def test_pixels_that_touch_at_a_corner_are_apart() -> None:
    mask = np.array([[1, 0, 0, 1], [0, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]], dtype=bool)
    sizes = sorted(len(rows) for rows, _ in read_text.connected_components(mask))
    assert sizes == [1, 2, 4]


def test_decode_merges_repeats_but_not_across_blanks() -> None:
    classes = [0, 1, 1, 2, 0, 2, 2, 0, 0, 3]
    assert read_text.decode(np.eye(4)[classes], ["a", "b", "c"]) == "abbc"


def test_tensor_is_bgr_from_minus_one_to_one() -> None:
    image = Image.new("RGB", (3, 2), (255, 0, 51))
    tensor = read_text.to_tensor(image)
    assert tensor.shape == (1, 3, 2, 3)
    np.testing.assert_allclose(tensor[0, :, 1, 2], [-0.6, -1, 1], atol=1e-6)
    assert read_text.detector_tensor(image).shape == (1, 3, 32, 32)
    assert read_text.recognizer_tensor(image).shape == (1, 3, 48, 72)


def test_readings_agree_within_a_pixel() -> None:
    reading = read_text.Reading([(1, 2, 30, 40)], ["text"])
    assert reading.agrees_with(read_text.Reading([(2, 1, 31, 40)], ["text"]))
    assert not reading.agrees_with(read_text.Reading([(3, 2, 30, 40)], ["text"]))
    assert not reading.agrees_with(read_text.Reading([(1, 2, 30, 40)], ["test"]))
    assert not reading.agrees_with(read_text.Reading([], ["text"]))
