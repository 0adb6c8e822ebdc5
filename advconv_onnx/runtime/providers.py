"""Execution providers: what we call them, whether they work here, and what to install when not."""

from __future__ import annotations

import ctypes
import dataclasses
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import onnxruntime as ort

from advconv_onnx.errors import InputError, MissingDependencyError
from advconv_onnx.records import Device, ProviderStatus


@dataclasses.dataclass(frozen=True, slots=True)
class Provider:
    """One execution provider of ONNX Runtime.

    Attributes:
        execution_provider: its name in ONNX Runtime.
        package: the distribution of ONNX Runtime that contains it; these replace each other.
        options: provider options, as ONNX Runtime takes them.
        tolerance: largest difference from a float64 reference, relative to the output's range,
            that is rounding on this provider and not a wrong result.
    """

    execution_provider: str
    package: str
    options: Mapping[str, str]
    tolerance: float


# TF32 keeps 10 bits of mantissa: it would hide the errors that validation looks for, so it is
# off where the provider has a switch. TensorRT and OpenVINO choose their own precisions.
PROVIDERS: Mapping[str, Provider] = {
    "cpu": Provider("CPUExecutionProvider", "onnxruntime", {}, 1e-4),
    "cuda": Provider("CUDAExecutionProvider", "onnxruntime-gpu", {"use_tf32": "0"}, 1e-4),
    "tensorrt": Provider("TensorrtExecutionProvider", "onnxruntime-gpu", {}, 1e-3),
    "openvino": Provider("OpenVINOExecutionProvider", "onnxruntime-openvino", {}, 1e-3),
}


def require(name: str) -> Provider:
    """Return the provider called ``name``.

    Raises:
        InputError: there is no provider of that name.
        MissingDependencyError: it cannot be used here; the message says what to install.
    """
    provider = _find(name)
    state = status(name)
    if not state.available:
        raise MissingDependencyError(f"provider {name!r} is not available here: {state.reason}")
    return provider


def status(name: str) -> ProviderStatus:
    """Tell whether a provider is installed and its libraries load, and if not, why.

    Raises:
        InputError: there is no provider of that name.
    """
    provider = _find(name)
    if provider.execution_provider not in ort.get_available_providers():
        reason = (
            f"this ONNX Runtime was built without {provider.execution_provider}; run "
            f"`pip uninstall -y onnxruntime && pip install {provider.package}`"
        )
        return ProviderStatus(name, available=False, reason=reason)
    if name == "cpu":
        return ProviderStatus(name, available=True, reason="")
    if provider.package == "onnxruntime-gpu":
        ort.preload_dlls()  # finds the CUDA libraries that pip installed
    try:
        ctypes.CDLL(str(_library(name)))
    except OSError as error:
        reason = f"a library is missing ({error}); install it or add it to the library path"
        return ProviderStatus(name, available=False, reason=reason)
    return ProviderStatus(name, available=True, reason="")


def statuses() -> tuple[ProviderStatus, ...]:
    """Return the status of every provider this package knows."""
    return tuple(status(name) for name in PROVIDERS)


def device(provider: str, threads: int) -> Device:
    """Describe where a measurement with ``threads`` threads takes place."""
    return Device(provider, threads, _processor(), ort.__version__)


def _find(name: str) -> Provider:
    if name not in PROVIDERS:
        raise InputError(f"provider {name!r} is unknown; use one of {', '.join(PROVIDERS)}")
    return PROVIDERS[name]


def _library(name: str) -> Path:
    stem = f"onnxruntime_providers_{name}"
    file = f"{stem}.dll" if sys.platform == "win32" else f"lib{stem}.so"
    return Path(ort.__file__).parent / "capi" / file


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        model = None
    return model[1].strip() if model else platform.processor() or platform.machine()
