"""The sample that builds and runs networks, as its reader runs it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from advconv_onnx import catalog

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_two_networks(run_sample: Run) -> None:
    run = run_sample("build_networks.py", "dcgan", "mobilenet_v2", "--size", "64")
    assert run.returncode == 0, run.stderr
    header, dcgan, mobilenet, note = run.stdout.splitlines()
    assert header.split() == ["network", "parameters", "MMACs", "output", "ms", "known", "for"]
    # Each of a layer's weights meets each of its input's pixels, 1, 16, 64, 256 and 1024 of them:
    # 16 * (100 * 512 * 1 + 512 * 256 * 16 + 256 * 128 * 64 + 128 * 64 * 256 + 64 * 3 * 1024).
    assert dcgan.split()[:4] == ["dcgan", "3,576,704", "105", "1x3x64x64"]
    assert dcgan.endswith("transposed convolutions draw an image from noise.")
    assert mobilenet.split()[:2] == ["mobilenet_v2", "3,504,872"]
    assert "advconv bench measures" in note


@pytest.mark.long
def test_every_network(run_sample: Run) -> None:
    run = run_sample("build_networks.py")
    assert run.returncode == 0, run.stderr
    networks = [name for name, entry in catalog.entries().items() if entry.kind == "network"]
    assert [line.split()[0] for line in run.stdout.splitlines()[1:-1]] == networks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["unet", "--size", "8"], "'x' has size 8x8"),
        (["dcgan", "vgg"], "no network 'vgg'; use dcgan"),
    ],
)
def test_mistakes_are_told_without_a_traceback(
    run_sample: Run, arguments: list[str], message: str
) -> None:
    run = run_sample("build_networks.py", *arguments)
    assert run.returncode == 2
    assert message in run.stderr
    assert "Traceback" not in run.stderr
