"""Inputs that a torch module is tried on: several sizes of every dynamic dimension, two draws each.

Odd sizes and a batch of 1 provoke mistakes; what an example gives is among them, as it is.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from advconv_onnx import model as files
from advconv_onnx.errors import InputError
from advconv_onnx.exporters.torch_arguments import Arguments, Input, Tensors
from advconv_onnx.exporters.torch_output import one_line

_SIZES = (
    *((2, 64, 96), (1, 65, 97), (3, 48, 32), (2, 128, 160), (2, 224, 224), (1, 224, 256)),
    *((2, 96, 96), (2, 64, 64), (2, 32, 32), (2, 28, 28), (2, 512, 512)),
)
"""Sizes for dynamic dimensions: the batch, then the others in turn.

The second row serves modules that need equal sides. The first one starts with 2, as torch takes a
1 for a fixed dimension.
"""

_VOLUMES = ((2, 16, 24), (1, 17, 15), (3, 12, 8), (2, 32, 64))
"""What is tried before where a tensor has three or more of the others: volumes take long."""

_MOST_SHAPES = 4
_MOST_ELEMENTS = 1 << 21
"""Of all inputs together, for every shape after the first: volumes would fill the memory."""

_INTEGERS = (30_000, 1000, 100, 10, 2)
"""How many integers, from 0, those inputs draw from that no example restricts: indices must not
exceed a table that only the module knows."""


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """Inputs for one binding of the dynamic dimensions.

    Attributes:
        text: the shapes.
        draws: the example if this is its size, normal, and uniform values.
    """

    text: str
    draws: tuple[Tensors, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Cases:
    """The sizes at which a module runs, and notes on those at which it does not."""

    runnable: tuple[Case, ...]
    notes: tuple[str, ...]


def find_cases(run: Callable[[Tensors], Any], arguments: Arguments, seed: int) -> Cases:
    """Find sizes and values that a module accepts.

    Args:
        run: runs the module, and raises whatever the module does.
        arguments: what to draw.
        seed: same seed, same inputs.

    Raises:
        InputError: it runs at none of the sizes tried; the message has the module's own.
    """
    unrestricted = any(x.example is None and not _is_real(x) for x in arguments.inputs)
    refused: dict[str, Exception] = {}
    for integers in _INTEGERS if unrestricted else _INTEGERS[:1]:
        cases, refused = _try(run, arguments, seed, integers)
        if cases:
            return Cases(tuple(cases), _notes(refused))
    tried, reason = next(iter(refused.items()))
    raise InputError(
        f"the module does not run at {tried}: {type(reason).__name__}: {one_line(reason)}; "
        "give sizes that it accepts with --input"
    )


def _notes(refused: Mapping[str, Exception]) -> tuple[str, ...]:
    if not refused:
        return ()
    more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
    few = "; ".join(list(refused)[:3])
    return (f"not checked, as the module itself does not run at them: {few}{more}",)


def _try(
    run: Callable[[Tensors], Any], arguments: Arguments, seed: int, integers: int
) -> tuple[list[Case], dict[str, Exception]]:
    cases: list[Case] = []
    refused: dict[str, Exception] = {}
    largest = _MOST_ELEMENTS
    for text, shapes in _bindings(arguments.inputs).items():
        elements = sum(math.prod(shape) for shape in shapes)
        if cases and elements > largest:
            continue
        case = Case(text, _draw(arguments.inputs, shapes, seed, integers))
        try:
            for draw in case.draws:
                run(draw)
        except Exception as error:  # whatever the module raises at sizes it is not made for
            refused[text] = error
            continue
        largest = largest if cases else max(largest, elements)
        cases.append(case)
        if len(cases) == _MOST_SHAPES:
            break
    return cases, refused


def _bindings(inputs: Sequence[Input]) -> dict[str, list[tuple[int, ...]]]:
    """Shapes of all inputs by their text: those of the example first."""
    example = {
        dim: size
        for x in inputs
        if x.example is not None
        for dim, size in zip(x.dims, x.example.shape, strict=True)
        if isinstance(dim, str)
    }
    most = max(sum(isinstance(dim, str) for dim in x.dims[1:]) for x in inputs)
    bound = [_bind(inputs, sizes, {}) for sizes in (*(_VOLUMES if most > 2 else ()), *_SIZES)]
    if any(x.example is not None for x in inputs):
        bound.insert(0, _bind(inputs, _SIZES[0], example))
    return {_spell(inputs, shapes): shapes for shapes in bound}


def _bind(
    inputs: Sequence[Input], sizes: Sequence[int], known: Mapping[str, int]
) -> list[tuple[int, ...]]:
    """Give every dynamic dimension a size: the first to dimensions named on an axis 0."""
    batch, *others = sizes
    bound = {x.dims[0]: batch for x in inputs if x.dims and isinstance(x.dims[0], str)}
    other = itertools.cycle(others)
    for dim in itertools.chain.from_iterable(x.dims for x in inputs):
        if isinstance(dim, str) and dim not in bound:
            bound[dim] = next(other)
    bound.update(known)
    return [tuple(bound[d] if isinstance(d, str) else d for d in x.dims) for x in inputs]


def _spell(inputs: Sequence[Input], shapes: Sequence[tuple[int, ...]]) -> str:
    pairs = zip(inputs, shapes, strict=True)
    return " ".join(f"{x.name}={files.format_shape(shape) or 'scalar'}" for x, shape in pairs)


def _draw(
    inputs: Sequence[Input], shapes: Sequence[tuple[int, ...]], seed: int, integers: int
) -> tuple[Tensors, ...]:
    """Draw all inputs twice; the example comes first where it has these shapes."""
    generator = torch.Generator().manual_seed(seed)
    pairs = list(zip(inputs, shapes, strict=True))
    draws = [
        {x.name: values(x, shape, generator, integers).to(x.device, x.dtype) for x, shape in pairs}
        for values in (_normal, _uniform)
    ]
    if all(x.example is not None and x.example.shape == shape for x, shape in pairs):
        return ({x.name: x.example for x in inputs if x.example is not None}, *draws)
    return tuple(draws)


def _normal(
    x: Input, shape: tuple[int, ...], generator: torch.Generator, integers: int
) -> torch.Tensor:
    if _is_real(x):
        return torch.randn(shape, generator=generator)
    return _whole(x, shape, generator, integers)


def _uniform(
    x: Input, shape: tuple[int, ...], generator: torch.Generator, integers: int
) -> torch.Tensor:
    """From -1 to 1, or from the smallest to the largest integer."""
    if _is_real(x):
        return 2 * torch.rand(shape, generator=generator) - 1
    return _whole(x, shape, generator, integers)


def _whole(
    x: Input, shape: tuple[int, ...], generator: torch.Generator, integers: int
) -> torch.Tensor:
    """Integers between those of the example; the largest is always among them."""
    low, high = 0, integers - 1
    if x.dtype == torch.bool:
        high = 1
    elif x.example is not None and x.example.numel():
        low, high = int(x.example.min()), int(x.example.max())
    else:
        high = min(high, torch.iinfo(x.dtype).max)
    drawn = torch.randint(low, high + 1, shape, generator=generator)
    drawn.view(-1)[:1] = high
    return drawn


def _is_real(x: Input) -> bool:
    return bool(x.dtype.is_floating_point)
