"""Layers in 8 bits beside the same fused model in float32, in paired rounds.

    python benchmarks/int8.py                  # networks of this package, trained text models
    python benchmarks/int8.py ppocr_cls dcgan

Networks of this package have drawn weights and inputs, which tells nothing about accuracy: all of
their layers are put in 8 bits. The trained ones see rendered lines and pages, and the layers stay
in float32 that their tasks need: 99 % of the classes of the classifier, 97 % of the recognizer's,
0.9 of the text pixels that the detector finds (``samples/deploy_ocr.py``).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import advconv_onnx
from advconv_onnx.errors import AdvconvError
from advconv_onnx.exporters import int8
from advconv_onnx.records import Artifact, Ratio

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "samples"))

import deploy_ocr
from fetch_models import Unavailable, model_path
from read_text import detector_tensor, render, to_tensor

NETWORKS: Mapping[str, tuple[int, ...]] = {
    "mobilenet_v1": (1, 3, 224, 224),
    "mobilenet_v2": (1, 3, 224, 224),
    "resnext": (1, 3, 224, 224),
    "unet": (1, 3, 256, 256),
    "deeplabv3": (1, 3, 257, 257),
}

TRAINED = ("ppocr_det", "ppocr_rec", "ppocr_cls")

Task = tuple[Path, dict[str, Any]]


def network(name: str, folder: Path) -> Task:
    """A network of this package, and the options that put all of it in 8 bits."""
    model = folder / f"{name}.onnx"
    shape = NETWORKS[name]
    advconv_onnx.save(advconv_onnx.build(name, input_shape=shape), model)
    images = np.random.default_rng(0).standard_normal((8, *shape[1:])).astype(np.float32)
    return model, {"data": {"x": images}, "max_error": 1e6}


def trained(name: str) -> Task:
    """A trained model, and the options that hold it to its task."""
    model = model_path(name)
    if name == "ppocr_det":
        starts = range(len(deploy_ocr.OTHER))
        lines = deploy_ocr.OTHER * 2
        pages = [detector_tensor(deploy_ocr.page(lines[i : i + 4])) for i in starts]
        images = np.concatenate(pages)
        metric = {"metric": deploy_ocr.finding(model, images), "max_drop": 0.1}
        return model, {"data": {"x": images}, **metric}
    size = (192, 48) if name == "ppocr_cls" else (320, 48)
    upright = [render(text) for text in deploy_ocr.OTHER]
    both = [line.rotate(turn).resize(size) for line in upright for turn in (0, 180)]
    images = np.concatenate(list(map(to_tensor, both)))
    drop = 0.01 if name == "ppocr_cls" else 0.03
    options = {"metric": "top1", "max_drop": drop, "calibration": "percentile"}
    return model, {"data": {"x": images}, **options}


def row(name: str, made: Artifact) -> str:
    """One line of the table."""
    measured = made.measurement
    assert measured is not None
    float32, eight = measured.timings
    layers = sum(not layer.kept for layer in made.layers)
    cells = [
        name,
        f"{layers} of {len(made.layers)}",
        f"{float32.latency.median:.2f}",
        f"{eight.latency.median:.2f}",
        _spell(eight.speedup),
        _spell(measured.noise),
    ]
    return f"| {' | '.join(cells)} |"


def _spell(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f} - {ratio.high:.2f})"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", default=[*NETWORKS, *TRAINED], metavar="NAME")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    print("| model | layers in 8 bits | float32, ms | int8, ms | speedup | A/A |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.names:
            try:
                model, task = network(name, Path(scratch)) if name in NETWORKS else trained(name)
                options = {"threads": arguments.threads, "allow_slower": True, **task}
                made = int8.export(model, Path(scratch, "out.onnx"), **options)
            except (AdvconvError, Unavailable) as error:
                print(f"| {name} | {error} | | | | |")
                continue
            print(row(name, made), flush=True)


if __name__ == "__main__":
    main()
