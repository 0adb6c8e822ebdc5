"""The layers and networks of this package by name; a file in their folders is all it takes."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import os
import pkgutil
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, Literal

import onnx_ir as ir

from advconv_onnx import layers, networks
from advconv_onnx.errors import InputError
from advconv_onnx.layers.builder import DEFAULT_OPSET, Builder
from advconv_onnx.networks.state_dict import read_state_dict
from advconv_onnx.records import LayerCosts, Shape

INPUT, OUTPUT = "x", "y"
"""What the input and the output of a built model are called."""

_LAYER_INPUT: Shape = ("N", 32, 56, 56)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A layer or a network.

    Attributes:
        name: of its function and of its file.
        kind: which of the two.
        summary: the first sentence of its file.
        function: takes a builder and a value, returns a value.
        costs: of a layer, on an input of a shape and with the same options; None for a network.
        input_shape: the usual one; unknown sizes are names.
        training_only: beginnings of names in trained weights that inference does not need.
    """

    name: str
    kind: Literal["layer", "network"]
    summary: str
    function: Callable[..., ir.Value]
    costs: Callable[..., LayerCosts] | None
    input_shape: Shape
    training_only: tuple[str, ...]

    @functools.cached_property
    def options(self) -> Mapping[str, tuple[Any, Any]]:
        """Type and default of each option by name; ``inspect.Parameter.empty`` where required."""
        hints = typing.get_type_hints(self.function)
        found: dict[str, tuple[Any, Any]] = {}
        for parameter in list(inspect.signature(self.function).parameters.values())[2:]:
            hint = hints[parameter.name]
            if parameter.kind is not parameter.VAR_KEYWORD:
                found[parameter.name] = hint, parameter.default
                continue
            [typed] = typing.get_args(hint)
            found |= {name: (kind, None) for name, kind in typing.get_type_hints(typed).items()}
        return found


@functools.cache
def entries() -> Mapping[str, Entry]:
    """All of them by name, layers first."""
    found = [
        *(_entry("layer", m, _LAYER_INPUT) for m in _modules(layers) if hasattr(m, "CASES")),
        *(_entry("network", m, m.INPUT_SHAPE) for m in _modules(networks) if _is_network(m)),
    ]
    return {entry.name: entry for entry in found}


def build(
    name: str,
    /,
    *,
    input_shape: Shape | None = None,
    seed: int = 0,
    dtype: str = "float32",
    opset: int = DEFAULT_OPSET,
    **parameters: Any,
) -> ir.Model:
    """Build a model of one layer, or of a network, with the usual initialization.

    Args:
        name: of a layer or network, such as "dilated_conv" or "mobilenet_v2".
        input_shape: of the input "x": batch, channels, sizes; names and None stay dynamic. The
            network's usual one by default.
        seed: same seed, same weights.
        dtype: float32, float16 or float64.
        opset: version of the default operator set.
        **parameters: those of the layer or network, such as ``classes`` or ``kernel_shape``.

    Returns:
        A model from "x" to "y".

    Raises:
        InputError: no such layer, network or parameter, or an impossible combination.
    """
    return _wire(name, input_shape, parameters, seed=seed, dtype=dtype, opset=opset)


def from_state_dict(
    name: str,
    source: Mapping[str, Any] | str | os.PathLike[str],
    /,
    *,
    input_shape: Shape | None = None,
    dtype: str = "float32",
    opset: int = DEFAULT_OPSET,
    **parameters: Any,
) -> ir.Model:
    """Build a network with trained weights, under the names torchvision or its paper's code has.

    Args:
        name: of the network, such as "resnext".
        source: arrays by name, torch tensors on the CPU among them, or a safetensors file.
            Counters (num_batches_tracked) and heads that only training has are left out.
        input_shape: as in ``build``, like the rest.
        dtype: the type weights are stored in.
        opset: version of the default operator set.
        **parameters: those of the network; they must be those it was trained with.

    Raises:
        InputError: as in ``build``, or missing, unexpected or misshapen entries, all listed.
    """
    arrays = read_state_dict(source, find(name).training_only)
    return _wire(name, input_shape, parameters, weights=arrays, dtype=dtype, opset=opset)


def find(name: str) -> Entry:
    """The layer or network of this name.

    Raises:
        InputError: there is none.
    """
    if name not in entries():
        raise InputError(f"'{name}' is no layer or network; use one of {', '.join(entries())}")
    return entries()[name]


def count_parameters(model: ir.Model) -> int:
    """Weights and biases of a model built here; statistics and limits are none."""
    return sum(
        value.const_value.size
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and name.endswith((".weight", ".bias"))
    )


def _wire(
    name: str, input_shape: Shape | None, parameters: Mapping[str, Any], **options: Any
) -> ir.Model:
    entry = find(name)
    unknown = [parameter for parameter in parameters if parameter not in entry.options]
    missing = [
        parameter
        for parameter, (_, default) in entry.options.items()
        if default is inspect.Parameter.empty and parameter not in parameters
    ]
    if unknown:
        raise InputError(
            f"{name} has no option '{unknown[0]}'; it has {', '.join(entry.options) or 'none'}"
        )
    if missing:
        raise InputError(f"{name} needs {' and '.join(missing)}; give a value")
    b = Builder(name, **options)
    x = b.input(INPUT, entry.input_shape if input_shape is None else input_shape)
    b.output(entry.function(b, x, **parameters), OUTPUT)
    return b.model()


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    for info in pkgutil.iter_modules(package.__path__):
        name = f"{package.__name__}.{info.name}"
        importlib.import_module(name)
        # The package may hold a function of this name in the module's place.
        yield sys.modules[name]


def _is_network(module: ModuleType) -> bool:
    return hasattr(module, "INPUT_SHAPE")


def _entry(kind: Literal["layer", "network"], module: ModuleType, shape: Shape) -> Entry:
    name = module.__name__.rpartition(".")[2]
    return Entry(
        name=name,
        kind=kind,
        summary=(module.__doc__ or "").split("\n")[0],
        function=getattr(module, name),
        costs=getattr(module, "costs", None),
        input_shape=shape,
        training_only=getattr(module, "TRAINING_ONLY", ()),
    )
