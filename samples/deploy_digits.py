"""Train a small network on handwritten digits and bring it to production, step by step.

    python samples/deploy_digits.py
    python samples/deploy_digits.py --out digits    # keep the models, the bundle and the pictures

Trains a network of depthwise separable convolutions for some seconds on the digits of
scikit-learn, exports it, optimizes it, folds its pre- and post-processing in, quantizes it, packs
it with all that belongs to it, proves the package again and runs it on a folder of pictures. The
accuracy on digits that were not trained on is stated at each step; exit status 1 if one loses
more than a hundredth. Needs torch and scikit-learn: pip install -e '.[dev]'.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

import advconv_onnx
from advconv_onnx.exporters import bundle, bundle_check, int8, self_contained
from advconv_onnx.preprocessing import Preprocessing
from advconv_onnx.runner.pictures import normalize

SIDE = 32
"""Of a picture in pixels; scikit-learn's digits have 8."""

TRAINED = 1200
"""Digits that are trained on, of 1797; the others tell the accuracy."""

EPOCHS = 12

MOST_LOST = 0.01
"""Of accuracy, in any step."""

PREPARED = Preprocessing(channels="L", mean=(0.5,), std=(0.5,))


class Digits(nn.Module):
    """Depthwise separable convolutions; the class scores of pictures (N, 1, 32, 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = self._convolve(1, 16, stride=2)
        self.blocks = nn.Sequential(
            self._separable(16, 32),
            self._separable(32, 64, stride=2),
            self._separable(64, 128, stride=2),
            self._separable(128, 128),
        )
        self.head = nn.Linear(128, 10)

    @staticmethod
    def _convolve(
        channels: int, filters: int, size: int = 3, *, stride: int = 1, groups: int = 1
    ) -> nn.Sequential:
        convolution = nn.Conv2d(
            channels, filters, size, stride, size // 2, groups=groups, bias=False
        )
        return nn.Sequential(convolution, nn.BatchNorm2d(filters), nn.ReLU6())

    def _separable(self, channels: int, filters: int, stride: int = 1) -> nn.Sequential:
        depthwise = self._convolve(channels, channels, stride=stride, groups=channels)
        return nn.Sequential(depthwise, self._convolve(channels, filters, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The scores of the ten classes (N, 10)."""
        features: torch.Tensor = self.blocks(self.stem(x))
        scores: torch.Tensor = self.head(features.mean((2, 3)))
        return scores


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Pictures (1797, 32, 32) of 8 bits in a shuffled order, and what they show."""
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    small = (found.images[order] * (255 / 16)).astype(np.uint8)
    pictures = [np.asarray(Image.fromarray(p).resize((SIDE, SIDE))) for p in small]
    return np.stack(pictures), found.target[order]


def train(pictures: np.ndarray, labels: np.ndarray) -> nn.Module:
    """Train a network, the same one each time."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # more would mostly wait for each other: the layers are small
    x, y = torch.from_numpy(normalize(pictures[..., None], PREPARED)), torch.from_numpy(labels)
    network = Digits()
    batches = -(-len(y) // 64)
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=EPOCHS * batches)
    for _ in range(EPOCHS):
        for batch in torch.split(torch.randperm(len(y)), 64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(x[batch]), y[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network.eval()


def accuracy(model: Path, pictures: np.ndarray, labels: np.ndarray) -> float:
    """Share of pictures whose class is the one with most score, as the exported model says."""
    session = advconv_onnx.Session(model)
    (scores,) = session(pictures).values()
    return float(np.mean(scores.argmax(axis=1) == labels))


def write_pictures(folder: Path, pictures: np.ndarray, labels: np.ndarray) -> None:
    """Write a PNG for each digit; its name begins with what it shows."""
    folder.mkdir()
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        Image.fromarray(picture).save(folder / f"{label}_{number:04}.png")


def accuracy_of_run(package: Path, folder: Path) -> float:
    """The same of a bundle that runs on the files of a folder."""
    session = advconv_onnx.Session(package, batch=32)
    right = []
    for path, outputs in session.run_files(sorted(folder.iterdir())):
        assert isinstance(outputs, dict), outputs
        (probabilities,) = outputs.values()
        right.append(session.labels[probabilities.argmax()] == path.name[0])
    return float(np.mean(right))


def deploy(folder: Path) -> Iterator[tuple[str, float, str]]:
    """Yield what was done, the accuracy after it, and what it wrote."""
    pictures, labels = digits()
    seen, unseen = (pictures[:TRAINED], labels[:TRAINED]), (pictures[TRAINED:], labels[TRAINED:])
    network = train(*seen)
    floats = normalize(unseen[0][..., None], PREPARED)
    with torch.no_grad():
        scores = network(torch.from_numpy(floats)).numpy()
    yield "trained", float(np.mean(scores.argmax(axis=1) == unseen[1])), "-"

    model = folder / "exported.onnx"
    advconv_onnx.export(network, {"x": ("N", 1, SIDE, SIDE)}, model)
    yield "exported", accuracy(model, floats, unseen[1]), model.name

    model, before = folder / "optimized.onnx", model
    advconv_onnx.optimize(before, model, level="fuse")
    yield "optimized", accuracy(model, floats, unseen[1]), model.name

    model, before = folder / "self_contained.onnx", model
    self_contained.export(before, model, preprocessing=PREPARED, postprocess="softmax")
    pixels = unseen[0][..., None]
    yield "pixels in, probabilities out", accuracy(model, pixels, unseen[1]), model.name

    model, before = folder / "quantized.onnx", model
    data = {"x": seen[0][:200, ..., None]}
    # Layers this small do not gain from 8 bits; the step is shown all the same.
    int8.export(before, model, data=data, allow_slower=True)
    yield "quantized", accuracy(model, pixels, unseen[1]), model.name

    (folder / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(10)))
    package = folder / "digits.zip"
    bundle.export(model, package, labels=folder / "labels.txt", data={"x": pixels[:16]})
    assert bundle_check.check(package).passed
    yield "bundled and validated", accuracy(package, pixels, unseen[1]), package.name

    write_pictures(folder / "pictures", *unseen)
    yield "run on a folder of pictures", accuracy_of_run(package, folder / "pictures"), "pictures/"


@contextlib.contextmanager
def results(out: Path | None) -> Iterator[Path]:
    """A folder for what is written: the one that was asked for, or one that goes away."""
    if out is not None:
        out.mkdir(parents=True)
        yield out
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)


def main() -> int:
    """Run the sample."""
    parser = argparse.ArgumentParser(description="Train a network on digits, and deploy it.")
    parser.add_argument("--out", type=Path, help="a folder for what is made, which is not there")
    arguments = parser.parse_args()
    if arguments.out is not None and arguments.out.exists():
        print(f"'{arguments.out}' exists; remove it, or name another folder", file=sys.stderr)
        return 2
    with results(arguments.out) as folder:
        accuracies = []
        for step, share, written in deploy(folder):
            print(f"{step:30} {share:7.2%}  {written}")
            accuracies.append(share)
    lost = max(a - b for a, b in itertools.pairwise(accuracies))
    print(f"No step lost more than {max(lost, 0):.2%}.")
    return 0 if lost <= MOST_LOST else 1


if __name__ == "__main__":
    sys.exit(main())
