"""Builds, exports, optimizes, proves and times convolutional networks as ONNX graphs.

The functions behind the command line, imported when first used: worker processes of a measurement
import this package too, and must start at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advconv_onnx.catalog import build as build
    from advconv_onnx.catalog import from_state_dict as from_state_dict
    from advconv_onnx.errors import AdvconvError as AdvconvError
    from advconv_onnx.exporters.torch_module import export as export
    from advconv_onnx.inspection import inspect as inspect
    from advconv_onnx.model import load as load
    from advconv_onnx.model import save as save
    from advconv_onnx.optimizer.pipeline import optimize as optimize
    from advconv_onnx.runner.session import Session as Session
    from advconv_onnx.runtime.profile import profile as profile
    from advconv_onnx.runtime.timing import measure as measure
    from advconv_onnx.runtime.validate import validate as validate

_HOMES = {
    "AdvconvError": "errors",
    "Session": "runner.session",
    "build": "catalog",
    "export": "exporters.torch_module",
    "from_state_dict": "catalog",
    "inspect": "inspection",
    "load": "model",
    "measure": "runtime.timing",
    "optimize": "optimizer.pipeline",
    "profile": "runtime.profile",
    "save": "model",
    "validate": "runtime.validate",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
