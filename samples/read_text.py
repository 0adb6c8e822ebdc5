"""Read a line of text with PP-OCRv4 before and after optimization, and show that both agree.

    python samples/read_text.py
    python samples/read_text.py "Any other line" --level search

Renders the line to an image, lets the detector find the boxes and the recognizer read them, first
with the models as published and then with the optimized ones; exit status 1 if they disagree.
Pre- and post-processing follow PaddleOCR: https://github.com/PaddlePaddle/PaddleOCR
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from fetch_models import Unavailable, model_path
from PIL import Image, ImageDraw, ImageFont

import advconv_onnx

TEXT = "No rewrite ships unless it is proved equal"
RECOGNIZER_HEIGHT = 48

Box = tuple[int, int, int, int]  # left, top, right, bottom


@dataclasses.dataclass(frozen=True)
class Reading:
    """What one pair of detector and recognizer saw in an image."""

    boxes: list[Box]
    texts: list[str]

    def agrees_with(self, other: Reading) -> bool:
        """Same texts, and boxes within a pixel: rounding may tip a pixel at the threshold."""
        return (
            self.texts == other.texts
            and len(self.boxes) == len(other.boxes)
            and all(np.abs(np.subtract(self.boxes, other.boxes)).ravel() <= 1)
        )


def render(text: str, size: tuple[int, int] | None = None, font_size: int = 32) -> Image.Image:
    """Draw dark text on a light background; the image fits the text unless a size is given."""
    font = ImageFont.load_default(size=font_size)
    left, top, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).textbbox((0, 0), text, font)
    size = size or (round(right - left) + 2 * font_size, round(bottom - top) + 2 * font_size)
    image = Image.new("RGB", size, (245, 245, 240))
    ImageDraw.Draw(image).text((font_size - left, font_size - top), text, (20, 20, 40), font)
    return image


def to_tensor(image: Image.Image) -> np.ndarray:
    """Turn an RGB image into a BGR tensor 1 x 3 x height x width with values from -1 to 1."""
    bgr = np.asarray(image, dtype=np.float32)[:, :, ::-1]
    return np.ascontiguousarray((bgr / 255 - 0.5) / 0.5).transpose(2, 0, 1)[np.newaxis]


def detector_tensor(image: Image.Image) -> np.ndarray:
    """Enlarge to multiples of 32, as the detector halves its input five times."""
    width, height = (-(-side // 32) * 32 for side in image.size)
    return to_tensor(image.resize((width, height)))


def recognizer_tensor(line: Image.Image) -> np.ndarray:
    """Resize to the recognizer's height; its width is dynamic."""
    width = round(line.width * RECOGNIZER_HEIGHT / line.height)
    return to_tensor(line.resize((width, RECOGNIZER_HEIGHT)))


def find_boxes(heat: np.ndarray, threshold: float = 0.3, unclip: float = 1.6) -> list[Box]:
    """Turn a heat map (height x width, 0 to 1) into boxes, as differentiable binarization does.

    The network draws text smaller than it is, so that neighbours stay apart: each box grows by
    area * unclip / perimeter on every side.
    """
    boxes = []
    for rows, columns in connected_components(heat > threshold):
        top, left, bottom, right = min(rows), min(columns), max(rows) + 1, max(columns) + 1
        height, width = bottom - top, right - left
        if min(height, width) < 3:
            continue
        grow = round(height * width * unclip / (2 * (height + width)))
        boxes.append((left - grow, top - grow, right + grow, bottom + grow))
    return sorted(boxes)


def connected_components(mask: np.ndarray) -> list[tuple[list[int], list[int]]]:
    """Group the true pixels that touch at a side; each group is (rows, columns)."""
    remaining = {(int(row), int(column)) for row, column in np.argwhere(mask)}
    components = []
    while remaining:
        pending = [remaining.pop()]
        component = []
        while pending:
            row, column = pixel = pending.pop()
            component.append(pixel)
            neighbours = {
                (row - 1, column),
                (row + 1, column),
                (row, column - 1),
                (row, column + 1),
            }
            pending += neighbours & remaining
            remaining -= neighbours
        rows, columns = zip(*component, strict=True)
        components.append((list(rows), list(columns)))
    return components


def decode(probabilities: np.ndarray, known: list[str]) -> str:
    """Greedy CTC: the best class of every step, repeats merged, class 0 (blank) dropped."""
    best = probabilities.argmax(axis=1)
    kept = best[(best != np.append(0, best[:-1])) & (best != 0)]
    return "".join(known[index - 1] for index in kept)


def characters(recognizer: Path) -> list[str]:
    """What the classes of a recognizer mean, from the second one on."""
    session = onnxruntime.InferenceSession(recognizer, providers=["CPUExecutionProvider"])
    return [*session.get_modelmeta().custom_metadata_map["character"].splitlines(), " "]


def read(image: Image.Image, detector: Path, recognizer: Path) -> Reading:
    """Find the lines of text in an image and read each."""
    tensor = detector_tensor(image)
    finder = onnxruntime.InferenceSession(detector, providers=["CPUExecutionProvider"])
    heat = finder.run(None, {"x": tensor})[0][0, 0]
    scale = np.tile(np.divide(image.size, heat.shape[::-1]), 2)
    boxes = [tuple(np.rint(box * scale).astype(int).tolist()) for box in find_boxes(heat)]

    reader = onnxruntime.InferenceSession(recognizer, providers=["CPUExecutionProvider"])
    known = characters(recognizer)
    lines = [recognizer_tensor(image.crop(box)) for box in boxes]
    texts = [decode(reader.run(None, {"x": line})[0][0], known) for line in lines]
    return Reading(boxes, texts)


def main() -> int:
    """Run the sample."""
    parser = argparse.ArgumentParser(description="Read text with PP-OCRv4 before and after.")
    parser.add_argument("text", nargs="?", default=TEXT)
    parser.add_argument("--level", choices=["fuse", "search"], default="fuse")
    arguments = parser.parse_args()
    try:
        detector, recognizer = model_path("ppocr_det"), model_path("ppocr_rec")
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 2

    image = render(arguments.text)
    shapes = {
        detector: detector_tensor(image).shape,
        recognizer: (1, 3, RECOGNIZER_HEIGHT, "width"),
    }
    before = read(image, detector, recognizer)
    with tempfile.TemporaryDirectory() as scratch:
        faster = {model: Path(scratch, model.name) for model in shapes}
        for model, shape in shapes.items():
            report = advconv_onnx.optimize(
                model, faster[model], inputs={"x": shape}, level=arguments.level
            )
            print(f"{model.name}: {report.model.nodes} -> {report.optimized.nodes} nodes")
        after = read(image, faster[detector], faster[recognizer])

    print(f"rendered   {arguments.text!r}")
    for name, reading in (("original", before), ("optimized", after)):
        print(f"{name:10} {' '.join(reading.texts)!r}  boxes {reading.boxes}")
    agree = before.agrees_with(after)
    print("Both agree." if agree else "They DISAGREE.")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
