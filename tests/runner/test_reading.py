"""Arrays from files, and everything that can be wrong with these."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advconv_onnx.errors import InputError
from advconv_onnx.runner import reading
from advconv_onnx.runner.inputs import Input
from advconv_onnx.runner.reading import read_file, read_input
from tests.parsing import normal

from .models import noise

X = Input("x", "tensor(float)", ("N", 3, "H", "W"))
PAIR = (Input("a", "tensor(float)", ("N", 2)), Input("b", "tensor(float)", ("N", 2)))


def test_arrays(tmp_path: Path) -> None:
    array = normal(1, 3, 4, 5)
    np.save(tmp_path / "one.npy", array)
    np.savez(tmp_path / "alone.npz", whatever=array)
    np.savez(tmp_path / "named.npz", x=array, y=normal(9))
    for name in ("one.npy", "alone.npz", "named.npz"):
        np.testing.assert_array_equal(read_input(tmp_path / name, X, {})[0], array)
        item = read_file(tmp_path / name, [X], {})
        assert item.frame is None
        np.testing.assert_array_equal(item.inputs["x"], array)


def test_a_file_for_several_inputs(tmp_path: Path) -> None:
    np.savez(tmp_path / "pair.npz", a=normal(2), b=normal(1, 2), more=normal(9))
    item = read_file(tmp_path / "pair.npz", PAIR, {})
    assert {name: array.shape for name, array in item.inputs.items()} == {"a": (1, 2), "b": (1, 2)}
    np.savez(tmp_path / "half.npz", a=normal(2))
    with pytest.raises(InputError, match="has no 'b'; the model's inputs are a, b"):
        read_file(tmp_path / "half.npz", PAIR, {})
    np.save(tmp_path / "one.npy", normal(2))
    with pytest.raises(InputError, match=r"the model has a, b; save an \.npz"):
        read_file(tmp_path / "one.npy", PAIR, {})


@pytest.mark.parametrize(("kind", "dtype"), [("float16", np.float16), ("uint8", np.uint8)])
def test_pictures_in_the_type_and_layout_of_the_input(
    tmp_path: Path, kind: str, dtype: type
) -> None:
    pixels = noise(4, 5)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    first, _ = read_input(tmp_path / "p.png", Input("x", f"tensor({kind})", X.dims), {})
    last, _ = read_input(tmp_path / "p.png", Input("x", f"tensor({kind})", ("N", "H", "W", 3)), {})
    expected = pixels if kind == "uint8" else (pixels / 255).astype(np.float16)
    assert (first.dtype, first.shape) == (dtype, (1, 3, 4, 5))
    np.testing.assert_allclose(last[0], expected, rtol=1e-3)
    np.testing.assert_array_equal(first[0].transpose(1, 2, 0), last[0])


def test_bad_arrays_are_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "good.npy", normal(1, 3, 4, 5))
    np.savez(tmp_path / "good.npz", x=normal(1, 3, 4, 5))
    whole = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "cut.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:-9])
    (tmp_path / "cut.npz").write_bytes(whole[:-30])
    (tmp_path / "changed.npz").write_bytes(whole.replace(whole[200:220], b"?" * 20))
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "text.npz").write_text("no arrays")
    (tmp_path / "nothing.npy").touch()
    huge = (tmp_path / "good.npy").read_bytes().replace(b"(1, 3, 4, 5)", b"(10**15 ,3)"[:12])
    (tmp_path / "huge.npy").write_bytes(huge)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "other.npz", y=normal(1), z=normal(1))
    os.mkfifo(tmp_path / "pipe.npy")
    messages = {
        "cut.npy": "as arrays of numbers",
        "cut.npz": "as arrays of numbers",
        "changed.npz": "as arrays of numbers",
        "text.npy": "as arrays of numbers",
        "text.npz": "as arrays of numbers",
        "nothing.npy": "as arrays of numbers",
        "huge.npy": "as arrays of numbers",
        "objects.npy": "as arrays of numbers",
        "other.npz": "has no array 'x'; it has y, z",
        "pipe.npy": "it is no regular file",
        "gone.npy": "No such file",
    }
    for name, message in messages.items():
        with pytest.raises(InputError, match=message) as caught:
            read_input(tmp_path / name, X, {})
        assert name in str(caught.value)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(100_000))
    monkeypatch.setattr(reading, "_LARGEST", 99_999)
    with pytest.raises(InputError, match="split it"):
        read_input(tmp_path / "bomb.npz", X, {})
