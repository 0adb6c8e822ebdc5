"""Small models and pictures to run them on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from advconv_onnx import model as files
from tests.parsing import normal, parse

CLASSIFIER = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 3, H, W] x) => (float[N, 5, 1, 1] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w)
        y = GlobalAveragePool (a)
    }"""
SEGMENTER = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 3, H, W] x) => (float[N, 5, H, W] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }"""
PIXELS = """<ir_version: 8, opset_import: ["" : 17]>
    g (uint8[N, H, W, 3] x) => (float[N, H, W, 3] y) { y = Cast <to = 1> (x) }"""
SUM = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 2] a, float[N, 2] b) => (float[N, 2] file) { file = Add (a, b) }"""
COUNT = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 2] x) => (int64[R] y) { y = Shape (x) }"""


def write(path: Path, text: str = CLASSIFIER, **changes: str) -> Path:
    """Write a model, its weights drawn if it has any; ``N="4"`` fixes a size."""
    head, body = text.split("=>")
    for name, size in changes.items():
        head = head.replace(f"{name},", f"{size},").replace(f" {name}]", f" {size}]")
        head = head.replace(f"[{name},", f"[{size},")
    weights = {"w": normal(5, 3, 3, 3)} if "Conv" in text else {}
    files.save(parse(f"{head}=>{body}", **weights), path)
    return path


def write_pictures(folder: Path, count: int, *, size: tuple[int, int] = (12, 16)) -> list[Path]:
    """Write pictures of noise, every second one into a folder of its own."""
    (folder / "more").mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        path = folder / ("more" if number % 2 else "") / f"{number:03}.png"
        Image.fromarray(noise(*size, seed=number)).save(path)
        paths.append(path)
    return paths


def noise(height: int, width: int, channels: int = 3, *, seed: int = 0) -> np.ndarray:
    """Seeded pixels."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def results(folder: Path) -> dict[str, Mapping[str, np.ndarray]]:
    """All .npz below a folder, by their relative names."""
    found = {}
    for path in sorted(folder.rglob("*.npz")):
        with np.load(path) as arrays:
            found[path.relative_to(folder).as_posix()] = dict(arrays)
    return found
