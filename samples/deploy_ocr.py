"""Read a page with PP-OCRv4 as published, optimized, in 8 bits and in ONNX Runtime's format.

    python samples/deploy_ocr.py
    python samples/deploy_ocr.py --level search

Renders a page, reads it with each version of the detector and the recognizer, and prints how many
characters were read right and how long both models take here, side by side. Exit status 1 if a
version in float32 reads anything else than the published models do.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from fetch_models import Unavailable, model_path
from PIL import Image, ImageDraw, ImageFont
from read_text import characters, decode, detector_tensor, read, recognizer_tensor, render
from rich.console import Console
from rich.table import Table

import advconv_onnx
from advconv_onnx.exporters import int8, ort_format
from advconv_onnx.exporters.options import Run
from advconv_onnx.records import Timing

PAGE = (
    "Depthwise separable, dilated",
    "Grouped by 32, kernel 3x3",
    "The quick brown fox jumps",
    "over the lazy dog, 1234567890",
)
"""What is read."""

OTHER = (
    "Sphinx of black quartz, judge",
    "my vow: pack my box with five",
    "dozen jugs. How vexingly quick",
    "daft zebras jump, bright vixens",
    "waltz, dozy fowl quack, 98,765.40",
    "Invoice 2026-11-26, upsample by 2",
    "and convolve 5x5, for 224 by 224",
    "Five hundred images, bad nymphs",
)
"""What the ranges of 8 bits are taken from."""

WIDTH = 320
"""Of a line that ranges are taken from, in pixels."""

Version = tuple[Path, Path]  # detector, recognizer


def page(lines: Sequence[str], font_size: int = 28) -> Image.Image:
    """Draw lines below each other, dark on a light background."""
    font = ImageFont.load_default(size=font_size)
    image = Image.new("RGB", (512, 56 * (len(lines) + 1)), (245, 245, 240))
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((32, 32 + 56 * number), line, (20, 20, 40), font)
    return image


def deploy(models: Version, level: str, folder: Path) -> dict[str, Version]:
    """Write all versions; the first is the one that was published."""
    pages = np.concatenate([detector_tensor(page((OTHER * 2)[i : i + 4])) for i in range(8)])
    lines = np.concatenate([_line(text) for text in OTHER])
    tasks = (
        # A box that is a pixel off does no harm, a wrong character does.
        {"data": {"x": pages}, "metric": finding(models[0], pages), "max_drop": 0.1},
        {"data": {"x": lines}, "metric": reading(models[1], lines), "max_drop": 0.01},
    )
    shapes = detector_tensor(page(PAGE)).shape, (1, 3, 48, "width")
    names = ("published", "optimized", "int8", "ort", "ort, this processor")
    versions: dict[str, list[Path]] = {name: [] for name in names}
    for number, (model, shape, task) in enumerate(zip(models, shapes, tasks, strict=True)):
        made = (folder / f"{number}_{name}" for name in ("o.onnx", "8.onnx", "a.ort", "b.ort"))
        paths = [model, *made]
        advconv_onnx.optimize(model, paths[1], inputs={"x": shape}, level=level)
        int8.export(paths[1], paths[2], allow_slower=True, **task)
        ort_format.export(paths[1], paths[3])
        ort_format.export(paths[1], paths[4], this_processor=True)
        for name, path in zip(names, paths, strict=True):
            versions[name].append(path)
    return {name: (paths[0], paths[1]) for name, paths in versions.items()}


def finding(detector: Path, pages: np.ndarray) -> int8.Metric:
    """How much the text that is found on pages overlaps with what the published model finds."""
    session = advconv_onnx.Session(detector)
    published = [_text_pixels(session, image) for image in pages]

    def score(run: Run) -> float:
        found = [_text_pixels(lambda x: run({"x": x}), image) for image in pages]
        pairs = zip(found, published, strict=True)
        return float(np.mean([(one & other).sum() / (one | other).sum() for one, other in pairs]))

    return score


def _text_pixels(
    run: Callable[[np.ndarray], dict[str, np.ndarray]], image: np.ndarray
) -> np.ndarray:
    (heat,) = run(image[None]).values()
    return heat > 0.3


def reading(recognizer: Path, lines: np.ndarray) -> int8.Metric:
    """How many characters of lines are read right."""
    known = characters(recognizer)

    def score(run: Run) -> float:
        answers = [next(iter(run({"x": line[None]}).values()))[0] for line in lines]
        texts = [decode(answer, known) for answer in answers]
        return float(np.mean(list(map(accuracy, texts, OTHER))))

    return score


def _line(text: str) -> np.ndarray:
    """A rendered line as the recognizer takes it, brought to one width."""
    line = render(text)
    scaled = line.resize((WIDTH, round(line.height * WIDTH / line.width)))
    return recognizer_tensor(scaled.resize((WIDTH, 48)))


def lines_of(image: Image.Image, version: Version) -> list[str]:
    """The lines of a page from top to bottom."""
    reading = read(image, *version)
    ordered = sorted(zip(reading.boxes, reading.texts, strict=True), key=lambda pair: pair[0][1])
    return [text for _, text in ordered]


def accuracy(read: str, truth: str) -> float:
    """1 less the edits that make one text of the other, per character."""
    costs = list(range(len(truth) + 1))
    for row, letter in enumerate(read, 1):
        above, costs[0] = costs[0], row
        for column, other in enumerate(truth, 1):
            replaced = above + (letter != other)
            above = costs[column]
            costs[column] = min(replaced, costs[column] + 1, costs[column - 1] + 1)
    return 1 - costs[-1] / len(truth)


def show(
    texts: Mapping[str, Sequence[str]], versions: Mapping[str, Version], seconds: float
) -> None:
    """Print the versions side by side; the speed is that of the published one over each."""
    inputs = detector_tensor(page(PAGE)), _line(PAGE[0])
    measured = [
        advconv_onnx.measure(
            {name: paths[number] for name, paths in versions.items()},
            {"x": array},
            time_limit=seconds,
        )
        for number, array in enumerate(inputs)
    ]
    table = Table(
        "version", "read right", "detector", "times as fast", "recognizer", "times as fast"
    )
    for number, (name, lines) in enumerate(texts.items()):
        right = accuracy(" ".join(lines), " ".join(PAGE))
        timings = [each.timings[number] for each in measured]
        table.add_row(
            name, f"{right:.1%}", *(cell for timing in timings for cell in _cells(timing))
        )
    Console(width=110).print(table)
    for model, each in zip(("detector", "recognizer"), measured, strict=True):
        print(
            f"{model} at {each.shape}; the published one against itself is {each.noise.median:.3f}"
        )


def _cells(timing: Timing) -> tuple[str, str]:
    ratio = timing.speedup
    return (
        f"{timing.latency.median:.1f} ms",
        f"{ratio.median:.2f} ({ratio.low:.2f} - {ratio.high:.2f})",
    )


def main() -> int:
    """Run the sample."""
    parser = argparse.ArgumentParser(description="Read a page with each version of PP-OCRv4.")
    parser.add_argument("--level", choices=["fuse", "search"], default="fuse")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each measurement")
    arguments = parser.parse_args()
    try:
        detector, recognizer = model_path("ppocr_det"), model_path("ppocr_rec")
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        versions = deploy((detector, recognizer), arguments.level, Path(scratch))
        texts = {name: lines_of(page(PAGE), version) for name, version in versions.items()}
        show(texts, versions, arguments.seconds)
    same = all(texts[name] == texts["published"] for name in texts if name != "int8")
    print("All versions in float32 read the same." if same else "Versions in float32 DISAGREE.")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
