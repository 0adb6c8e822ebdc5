"""Layers found by presence, built with weights of all kinds, run, and compared."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx import layers
from advconv_onnx.errors import InputError
from advconv_onnx.layers import Builder
from advconv_onnx.layers.definition import Parameters, within
from advconv_onnx.runtime.session import open_session

_PARAMETERS = ("weight", "bias", "running_mean", "running_var")


def _layers() -> dict[str, ModuleType]:
    found = {}
    for info in pkgutil.iter_modules(layers.__path__):
        name = f"{layers.__name__}.{info.name}"
        importlib.import_module(name)
        # The package holds a function of this name in the module's place.
        if hasattr(sys.modules[name], "CASES"):
            found[info.name] = sys.modules[name]
    return found


LAYERS = _layers()
"""The modules of all layers by name."""


def build(
    name: str, shape: tuple[int | str, ...], arguments: Mapping[str, Any], **options: Any
) -> ir.Model:
    """A model from "x" to "y" of one layer called "layer"; ``options`` are the builder's."""
    b = Builder(**options)
    x = b.input("x", shape)
    y = getattr(LAYERS[name], name)(b, x, name="layer", **arguments)
    b.output(y, "y")
    return b.model()


def initial_parameters(model: ir.Model) -> dict[str, np.ndarray]:
    """The arrays a builder drew, by their full names, without constants."""
    return {
        name: value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if name.endswith(_PARAMETERS)
    }


def random_parameters(model: ir.Model, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays of the same shapes, none of them neutral, variances positive."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.uniform(0.5, 2.0, array.shape).astype(array.dtype)
        if name.endswith("running_var")
        else rng.standard_normal(array.shape).astype(array.dtype)
        for name, array in initial_parameters(model).items()
    }


def small_integers(*shape: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers whose sums of products float32 holds exactly."""
    return rng.integers(-4, 5, shape).astype(np.float32)


def reference(
    name: str, x: np.ndarray, weights: Parameters, arguments: Mapping[str, Any]
) -> np.ndarray:
    """What the layer's own reference makes of the weights of a model from ``build``."""
    result: np.ndarray = LAYERS[name].reference(x, within("layer", weights), **arguments)
    return result


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    """The output by ONNX Runtime."""
    result: np.ndarray = open_session(model, threads=1).run(None, {"x": x})[0]
    return result


def assert_equal(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Within ``tolerance`` of the expected values' range, or of 1 where that is larger."""
    assert found.shape == expected.shape
    limit = tolerance * max(1.0, float(np.ptp(expected)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


def assert_refused(
    name: str,
    shape: tuple[int | str, ...],
    arguments: Mapping[str, Any],
    message: str,
    **options: Any,
) -> None:
    """The layer is refused with this message, under its name, and leaves nothing behind."""
    b = Builder(**options)
    x = b.input("x", shape)
    with pytest.raises(InputError, match=f"^{name} 'layer': .*{message}"):
        getattr(LAYERS[name], name)(b, x, name="layer", **arguments)
    assert not list(b.model().graph)
    assert not b.model().graph.initializers
    assert not x.uses()
