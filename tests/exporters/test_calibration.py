"""Data for models: which samples there are, and what ranges tensors take on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image

from advconv_onnx.errors import InputError
from advconv_onnx.exporters.calibration import Sample, Samples, open_data, ranges
from advconv_onnx.preprocessing import Preprocessing
from tests.parsing import normal, parse


def model(shape: str = "N, 3, 8, 8", more: str = "") -> ir.Model:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[{shape}] x{more}) => (float y)'
    return parse(f"{text} {{ y = Relu (x) }}")


def inputs(samples: Samples) -> list[np.ndarray]:
    return [sample.inputs["x"] for sample in samples]


def limits(values: np.ndarray, method: str) -> tuple[float, float]:
    samples = [Sample({"x": part}) for part in np.split(values, 4)]
    return ranges(model("N"), ["x"], samples, method)["x"]


def test_all_values() -> None:
    values = normal(4000)
    assert limits(values, "minmax") == (values.min(), values.max())


def test_the_ranges_of_inner_tensors() -> None:
    samples = [Sample({"x": normal(1, 3, 8, 8, seed=seed)}) for seed in range(3)]
    low, high = ranges(model(), ["y"], samples, "minmax")["y"]
    assert low == 0
    assert high == max(sample.inputs["x"].max() for sample in samples)


def test_samples_of_different_sizes() -> None:
    samples = [Sample({"x": normal(1, 3, side, side)}) for side in (3, 9)]
    for method in ("minmax", "entropy", "percentile"):
        low, high = ranges(model("N, 3, H, W"), ["x", "y"], samples, method)["x"]
        assert low < -1.5
        assert high > 1.5


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_a_single_outlier_is_cut_off(method: str) -> None:
    values = normal(40000)
    values[17] = 1000
    low, high = limits(values, method)
    assert values.min() <= low < -1.5
    assert 1.5 < high < 100 if method == "entropy" else 3 < high < 5


def test_a_percentile_keeps_that_part_of_the_values() -> None:
    values = normal(32000)
    low, high = limits(values, "percentile")
    inside = np.mean((values >= low) & (values <= high))
    assert 0.9999 <= inside < 1
    assert min(values) <= low
    assert high <= max(values)


def test_entropy_keeps_what_is_evenly_spread() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 32000).astype(np.float32)
    low, high = limits(values, "entropy")
    assert low < -0.9
    assert high > 0.9


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_constants(method: str) -> None:
    for value in (0.0, 3.0):
        assert limits(np.full(400, value, np.float32), method) == (value, value)


def test_values_that_are_no_numbers_are_not_hidden() -> None:
    values = normal(400)
    values[200] = np.nan
    for method in ("minmax", "percentile"):
        assert np.isnan(limits(values, method)).any()


def test_samples_are_read_one_by_one() -> None:
    alive: set[int] = set()
    most = 0

    class Watched(np.ndarray):
        def __del__(self) -> None:
            alive.discard(id(self))

    def read() -> Iterator[Sample]:
        nonlocal most
        for seed in range(20):
            array = normal(1, 3, 8, 8, seed=seed).view(Watched)
            alive.add(id(array))
            most = max(most, len(alive))
            yield Sample({"x": array})
            del array

    ranges(model(), ["x", "y"], read(), "minmax")  # type: ignore[arg-type]
    assert most <= 3


def test_arrays_are_cut_into_batches() -> None:
    array = normal(40, 3, 8, 8)
    data = open_data(model(), {"x": array})
    assert (len(data.calibrating), len(data.judging)) == (30, 10)
    found = [*inputs(data.calibrating), *inputs(data.judging)]
    assert {x.tobytes() for x in found} == {row.tobytes() for row in array}
    assert all(x.shape == (1, 3, 8, 8) for x in found)
    pairs = [*inputs(open_data(model("2, 3, 8, 8"), {"x": array}).calibrating)]
    assert {x.shape for x in pairs} == {(2, 3, 8, 8)}


def test_the_shares_follow_from_the_seed() -> None:
    array = normal(12, 3, 8, 8)
    one, same, other = (open_data(model(), {"x": array}, seed=seed) for seed in (0, 0, 1))
    first, second, third = (b"".join(x.tobytes() for x in inputs(d.judging))
                            for d in (one, same, other))  # fmt: skip
    assert first == second != third


def test_labels_go_with_their_samples() -> None:
    array = normal(8, 3, 8, 8)
    data = open_data(model(), {"x": array, "labels": np.arange(8)})
    for sample in (*data.calibrating, *data.judging):
        assert sample.label is not None
        assert np.array_equal(sample.inputs["x"][0], array[int(sample.label[0])])


def test_an_input_that_all_samples_share() -> None:
    data = {"x": normal(8, 3, 8, 8), "s": np.float32(3)}
    found = open_data(model(more=", float s"), data)
    assert all(sample.inputs["s"] == 3 for sample in found.calibrating)


def test_a_single_sample_is_used_twice_and_noted() -> None:
    data = open_data(model(), {"x": normal(1, 3, 8, 8)})
    assert inputs(data.judging)[0].size == 192
    assert "only sample" in next(data.notes)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "no 'x'"),
        ({"x": normal(4, 3, 8, 8), "z": normal(4)}, "'z', which is no input"),
        ({"x": normal(4, 3, 8, 9)}, "does not fit"),
        ({"x": np.full((4, 3, 8, 8), np.nan, np.float32)}, "NaN"),
        ({"x": normal(0, 3, 8, 8)}, "0 rows"),
        ({"x": normal(4, 3, 8, 8), "labels": np.arange(3)}, "3 answers for 4"),
        ({"x": normal(4, 3, 8, 8), "labels": np.arange(5)}, "5 answers for 4"),
    ],
)
def test_arrays_that_do_not_fit(data: Mapping[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_data(model(), data)


def test_rows_that_fill_no_batch() -> None:
    with pytest.raises(InputError, match="5 rows; the model takes 2"):
        open_data(model("2, 3, 8, 8"), {"x": normal(5, 3, 8, 8)})


def picture(path: Path, seed: int, size: tuple[int, int] = (8, 8)) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    for seed in range(8):
        picture(tmp_path / f"class{seed % 2}" / f"{seed}.png", seed)
    (tmp_path / "readme.txt").write_text("no picture")
    how: dict[str, Any] = {"mean": (0.5,), "std": (0.25,)}
    data = open_data(model(), tmp_path, how)
    assert (len(data.calibrating), len(data.judging)) == (6, 2)
    expected = {
        ((np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8) * np.float32(1 / 255)
          - np.float32(0.5)) / np.float32(0.25)).transpose(2, 0, 1).tobytes()
        for seed in range(8)
    }  # fmt: skip
    assert {x.tobytes() for x in (*inputs(data.calibrating), *inputs(data.judging))} == expected


def test_a_picture_fills_the_models_batch(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 0)
    [x] = inputs(open_data(model("4, 3, 8, 8"), tmp_path, Preprocessing()).judging)
    assert x.shape == (4, 3, 8, 8)
    assert np.ptp(x, axis=0).max() == 0


def test_a_bad_picture_is_left_out_and_named(tmp_path: Path) -> None:
    for seed in range(6):
        picture(tmp_path / f"{seed}.png", seed)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    np.save(tmp_path / "nan.npy", np.full((3, 8, 8), np.nan, np.float32))
    data = open_data(model(), tmp_path)
    assert len([*data.calibrating, *data.judging]) == 6
    _, lost = data.notes
    assert "2 files were left out" in lost
    assert "bad.png" in lost
    assert "NaN" in lost


def test_folders_with_nothing_in_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pictures"):
        open_data(model(), tmp_path)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"nothing in --data can be used.*bad\.png"):
        open_data(model(), tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        open_data(model(), tmp_path / "nowhere")


def test_arrays_in_a_folder_are_one_sample_each(tmp_path: Path) -> None:
    two = model(more=", float[N, 2] s")
    for seed in range(4):
        np.savez(tmp_path / f"{seed}.npz", x=normal(1, 3, 8, 8, seed=seed), s=normal(1, 2))
    assert len([*open_data(two, tmp_path).calibrating]) == 3


def test_pre_processing_is_for_pictures() -> None:
    with pytest.raises(InputError, match="are for pictures"):
        open_data(model(), {"x": normal(4, 3, 8, 8)}, Preprocessing())
