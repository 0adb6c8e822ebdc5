"""Pictures become the pixels that pillow, torch and the definitions say."""

from __future__ import annotations

import io
import random
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from advconv_onnx.errors import InputError, MissingDependencyError
from advconv_onnx.preprocessing import Preprocessing
from advconv_onnx.runner import pictures
from advconv_onnx.runner.pictures import encode_mask, normalize, read_picture, read_pixels

from .models import noise

PLAIN = Preprocessing()
UPRIGHT: dict[int, Any] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
"""What the Exif standard says that must be done to stored pixels, by the value of Orientation."""


def save(path: Path, array: np.ndarray, mode: str | None = None, **options: Any) -> Path:
    picture = Image.fromarray(array)
    (picture if mode is None else picture.convert(mode)).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("channels", "expected"),
    [("RGB", noise(6, 9)), ("BGR", noise(6, 9)[..., ::-1])],
)
def test_channels(tmp_path: Path, channels: str, expected: np.ndarray) -> None:
    path = save(tmp_path / "p.png", noise(6, 9))
    pixels = read_pixels(path, Preprocessing(channels=channels))
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.flags.c_contiguous


def test_grey_is_weighted_as_itu_r_601_says(tmp_path: Path) -> None:
    path = save(tmp_path / "p.png", noise(6, 9))
    pixels = read_pixels(path, Preprocessing(channels="L"))
    weighted = noise(6, 9) @ np.array([0.299, 0.587, 0.114])
    assert pixels.shape == (6, 9, 1)
    assert np.abs(pixels[..., 0] - weighted).max() <= 0.51


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    stored, exif = noise(6, 9), Image.Exif()
    exif[0x112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"p.{suffix}", stored, exif=exif, **options)
    pixels, frame = read_picture(path, PLAIN)
    np.testing.assert_array_equal(pixels, UPRIGHT[orientation](stored))
    assert frame.size == pixels.shape[:2]


def test_other_kinds_of_pixels(tmp_path: Path) -> None:
    grey, colour = noise(6, 9, 1)[..., 0], noise(6, 9)
    cases = {
        "grey": (save(tmp_path / "grey.png", grey), np.stack([grey] * 3, -1)),
        "opaque": (
            save(tmp_path / "rgba.png", np.dstack([colour, grey])),
            colour,  # what is transparent is seen
        ),
        "grey with alpha": (
            save(tmp_path / "la.png", np.dstack([grey, grey])),
            np.stack([grey] * 3, -1),
        ),
        "bits": (
            save(tmp_path / "bits.png", grey > 99),
            np.stack([np.where(grey > 99, 255, 0)] * 3, -1),
        ),
        "16 bits": (
            save(tmp_path / "16.png", grey.astype(np.uint16) * 256 + 255),
            np.stack([grey] * 3, -1),
        ),
        "16 bits, TIFF": (
            save(tmp_path / "16.tif", grey.astype(np.uint16) * 256),
            np.stack([grey] * 3, -1),
        ),
    }
    for name, (path, expected) in cases.items():
        np.testing.assert_array_equal(read_pixels(path, PLAIN), expected, err_msg=name)


def test_a_portable_greymap_of_16_bits(tmp_path: Path) -> None:
    values = noise(6, 9, 1)[..., 0]
    (tmp_path / "p.pgm").write_bytes(
        b"P5 9 6 65535\n" + (values.astype(np.uint16) << 8).astype(">u2").tobytes()
    )
    pixels = read_pixels(tmp_path / "p.pgm", Preprocessing(channels="L"))
    np.testing.assert_array_equal(pixels[..., 0], values)


def test_palettes_and_cmyk_are_as_pillow_converts_them(tmp_path: Path) -> None:
    with Image.open(save(tmp_path / "p.png", noise(6, 9), "P")) as picture:
        expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(read_pixels(tmp_path / "p.png", PLAIN), expected)
    save(tmp_path / "t.png", noise(6, 9), "P", transparency=bytes(range(256)))
    np.testing.assert_array_equal(read_pixels(tmp_path / "t.png", PLAIN), expected)
    path = save(tmp_path / "p.tif", noise(6, 9), "CMYK")
    np.testing.assert_array_equal(read_pixels(path, PLAIN), noise(6, 9))


def test_of_an_animation_the_first_picture(tmp_path: Path) -> None:
    first, *others = (Image.fromarray(noise(6, 9, seed=seed)) for seed in range(3))
    first.save(tmp_path / "a.gif", save_all=True, append_images=others)
    still = tmp_path / "still.gif"
    first.save(still)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.gif", PLAIN), read_pixels(still, PLAIN))
    assert read_pixels(still, PLAIN).std() > 10


@pytest.mark.parametrize("size", [(5, 7), (24, 8), (31, 40), (11, 17)])
def test_resizing_is_torchs_with_antialiasing(tmp_path: Path, size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    stored = noise(23, 34)
    path = save(tmp_path / "p.png", stored)
    tensor = torch.from_numpy(stored).permute(2, 0, 1)[None].double()
    expected = torch.nn.functional.interpolate(
        tensor, size=size, mode="bilinear", antialias=True, align_corners=False
    )
    pixels = read_pixels(path, Preprocessing(resize=size))
    # Pillow rounds between rows and columns and at the end.
    assert np.abs(pixels - expected[0].permute(1, 2, 0).numpy()).max() <= 1.01


@pytest.mark.parametrize(
    ("stored", "shorter", "expected"),
    [
        ((20, 30), 10, (10, 15)),
        ((30, 20), 10, (15, 10)),
        ((20, 31), 256, (256, 396)),
        ((7, 7), 3, (3, 3)),
        ((375, 500), 256, (256, 341)),
    ],
)
def test_the_shorter_side(
    tmp_path: Path, stored: tuple[int, int], shorter: int, expected: tuple[int, int]
) -> None:
    path = save(tmp_path / "p.png", noise(*stored))
    assert read_pixels(path, Preprocessing(resize=shorter)).shape[:2] == expected


def test_the_middle_is_cut_out(tmp_path: Path) -> None:
    stored = noise(21, 34)
    path = save(tmp_path / "p.png", stored)
    pixels, frame = read_picture(path, Preprocessing(crop=(10, 20)))
    np.testing.assert_array_equal(pixels, stored[6:16, 7:27])  # 5.5 is rounded to the even
    assert frame.crop == (6, 7, 10, 20)
    assert (frame.size, frame.resized) == ((21, 34), (21, 34))
    with pytest.raises(InputError, match=r"21x34 pixels, less than --crop 22x20"):
        read_pixels(path, Preprocessing(crop=(22, 20)))


def test_normalizing_is_what_torch_computes() -> None:
    torch = pytest.importorskip("torch")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pixels = noise(6, 9)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32).div(255)
    expected = (tensor - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    got = normalize(pixels, Preprocessing(mean=mean, std=std))
    np.testing.assert_allclose(got, expected.numpy(), rtol=0, atol=1e-6)
    assert got.dtype == np.float32
    last = normalize(pixels, Preprocessing(mean=mean, std=std, layout="NHWC"))
    np.testing.assert_array_equal(last, got.transpose(1, 2, 0))
    assert got.flags.c_contiguous


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it is large and has nothing in it."""
    content = io.BytesIO()
    Image.new("L", (1, 1)).save(content, "PNG")
    head = bytearray(content.getvalue())
    head[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    head[29:33] = zlib.crc32(head[12:29]).to_bytes(4, "big")
    return bytes(head)


def test_bad_pictures_are_told_in_one_line(tmp_path: Path) -> None:
    good = io.BytesIO()
    Image.fromarray(noise(60, 90)).save(good, "PNG")
    floats = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(floats, "TIFF")
    bad = {
        "truncated": (good.getvalue()[:3000], "truncated"),
        "text": (b"no picture at all\n" * 9, "it is none, or of a format"),
        "nothing": (b"", "it is none, or of a format"),
        "a program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is none"),
        "a bomb": (bomb(100_000, 100_000), "exceeds limit"),
        "of floats": (floats.getvalue(), "unknown range; save it as .npy"),
    }
    for name, (content, message) in bad.items():
        path = tmp_path / "bad.png"
        path.write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            read_pixels(path, PLAIN)
        assert "bad.png' as a picture" in str(caught.value), name
    for path, message in ((tmp_path / "gone.png", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError, match=message):
            read_pixels(path, PLAIN)


def test_a_thin_picture_is_not_made_immense(tmp_path: Path) -> None:
    path = save(tmp_path / "thin.png", noise(1, 60_000))
    with pytest.raises(InputError, match=r"resized it had 256x15360000; give --resize a height"):
        read_pixels(path, Preprocessing(resize=256))
    assert read_pixels(path, Preprocessing(resize=(8, 8))).shape == (8, 8, 3)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "JPEG2000"])
def test_damaged_files_never_raise_anything_else(tmp_path: Path, format: str) -> None:
    content, exif = io.BytesIO(), Image.Exif()
    exif[0x112] = 6
    options = {"exif": exif} if format in ("PNG", "JPEG", "TIFF", "WEBP") else {}
    Image.fromarray(noise(20, 30)).save(content, format, **options)
    path, refused = tmp_path / "p", 0
    with warnings.catch_warnings(action="ignore"):
        for seed in range(60):
            draw, data = random.Random(seed), bytearray(content.getvalue())
            if seed % 4 == 0:
                data = data[: draw.randrange(len(data))]
            for _ in range(4 if data else 0):
                place = draw.randrange(min(len(data), 120 if seed % 2 else 9999))
                data[place] = draw.randrange(256)
            path.write_bytes(data)
            try:
                read_pixels(path, PLAIN)
            except InputError:
                refused += 1
    assert refused


def test_masks_are_numbers_with_colours() -> None:
    classes = np.arange(256).reshape(8, 32)
    with Image.open(io.BytesIO(encode_mask(classes))) as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), classes)
        colours = picture.getpalette()
    assert colours is not None
    # The first of the PASCAL VOC's colours, and no two are alike.
    assert colours[:15] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128]
    assert len(set(zip(*[iter(colours)] * 3, strict=True))) == 256
    with Image.open(io.BytesIO(encode_mask(classes + 300))) as picture:
        np.testing.assert_array_equal(np.asarray(picture), classes + 300)


def test_without_pillow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = save(tmp_path / "p.png", noise(6, 9))
    monkeypatch.setattr(pictures, "Image", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'advconv-onnx\[images\]'"):
        read_pixels(path, PLAIN)
