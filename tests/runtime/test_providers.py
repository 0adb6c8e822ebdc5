import subprocess
from pathlib import Path

import onnxruntime as ort
import pytest

from advconv_onnx.errors import InputError, MissingDependencyError
from advconv_onnx.runtime import providers


@pytest.fixture
def only_cpu(monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])


@pytest.fixture
def cuda_without_libraries(monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(providers, "_library", lambda name: Path(f"/absent/lib_{name}.so"))


def test_names_are_those_of_onnxruntime():
    known = set(ort.get_all_providers())
    assert {provider.execution_provider for provider in providers.PROVIDERS.values()} <= known


def test_cpu_is_always_there():
    assert providers.require("cpu").execution_provider == "CPUExecutionProvider"
    assert providers.status("cpu").available


@pytest.mark.usefixtures("only_cpu")
@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("cuda", "onnxruntime-gpu"),
        ("tensorrt", "onnxruntime-gpu"),
        ("openvino", "onnxruntime-openvino"),
    ],
)
def test_missing_provider_says_what_to_install(name, package):
    with pytest.raises(MissingDependencyError, match=f"{name}.*pip install {package}"):
        providers.require(name)


@pytest.mark.usefixtures("cuda_without_libraries")
def test_missing_library_is_named():
    state = providers.status("cuda")
    assert not state.available
    assert "/absent/lib_cuda.so" in state.reason


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match="'tpu' is unknown; use one of cpu, cuda, tensorrt, openv"):
        providers.status("tpu")


@pytest.mark.usefixtures("only_cpu")
def test_statuses_has_one_row_per_provider():
    rows = providers.statuses()
    assert [(row.name, row.available) for row in rows] == [
        ("cpu", True),
        ("cuda", False),
        ("tensorrt", False),
        ("openvino", False),
    ]
    assert [bool(row.reason) for row in rows] == [False, True, True, True]


def test_device_names_the_processor(tmp_path):
    device = providers.device("cpu", 2)
    assert (device.provider, device.threads) == ("cpu", 2)
    assert device.onnxruntime == ort.__version__
    assert device.processor

    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz\nmodel name\t: Other\n")
    assert providers._processor(cpuinfo) == "Fast CPU @ 3 GHz"
    assert providers._processor(tmp_path / "absent")


def test_processor_agrees_with_lscpu():
    try:
        text = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no lscpu here")
    assert providers._processor() in text
