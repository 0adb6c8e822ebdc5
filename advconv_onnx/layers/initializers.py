"""Seeded initial weights: the rules of He et al. (2015), Glorot and Bengio (2010), and plain ones.

Fans are counted as torch.nn.init counts them: the second dimension of a weight times the kernel's
taps is its fan in, the first dimension times the taps its fan out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from advconv_onnx.errors import InputError

Array = NDArray[Any]

Initializer = Callable[[np.random.Generator, tuple[int, ...]], Array]
"""Draws an array of a shape."""

Weight = Array | Initializer | str
"""Where a layer's parameter comes from: an array, an initializer, or the name of one."""

Fan = Literal["fan_in", "fan_out"]


def normal(std: float, mean: float = 0.0) -> Initializer:
    """Normal distribution."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        array = rng.standard_normal(shape, np.float32)
        array *= np.float32(std)
        array += np.float32(mean)
        return array

    return draw


def uniform(limit: float) -> Initializer:
    """Uniform distribution between ``-limit`` and ``limit``."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        array = rng.random(shape, np.float32)
        array -= np.float32(0.5)
        array *= np.float32(2 * limit)
        return array

    return draw


def constant(value: float) -> Initializer:
    """The same value everywhere."""
    return lambda rng, shape: np.full(shape, value, np.float32)


def kaiming_normal(mode: Fan = "fan_in") -> Initializer:
    """Normal with variance 2 / fan: keeps the variance of activations through ReLUs."""
    return lambda rng, shape: normal(math.sqrt(2 / _fan(shape, mode)))(rng, shape)


def kaiming_uniform(mode: Fan = "fan_in", a: float = 0.0) -> Initializer:
    """Uniform with variance 2 / ((1 + a^2) fan), for leaky ReLUs of slope ``a``."""
    return lambda rng, shape: uniform(math.sqrt(6 / ((1 + a * a) * _fan(shape, mode))))(rng, shape)


def xavier_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Normal with variance 2 / (fan in + fan out), for linear and tanh layers."""
    return normal(math.sqrt(2 / (_fan(shape, "fan_in") + _fan(shape, "fan_out"))))(rng, shape)


def xavier_uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Uniform with variance 2 / (fan in + fan out); Keras's default ("Glorot")."""
    return uniform(math.sqrt(6 / (_fan(shape, "fan_in") + _fan(shape, "fan_out"))))(rng, shape)


INITIALIZERS: dict[str, Initializer] = {
    "kaiming_normal": kaiming_normal(),
    "kaiming_uniform": kaiming_uniform(),
    "xavier_normal": xavier_normal,
    "xavier_uniform": xavier_uniform,
    "torch": kaiming_uniform(a=math.sqrt(5)),
    "zeros": constant(0),
    "ones": constant(1),
}
"""By name; "torch" is what torch.nn gives weights by default: variance 1 / (3 fan in)."""


def initializer(weight: Initializer | str) -> Initializer:
    """Look an initializer up by its name.

    Raises:
        InputError: there is none of this name.
    """
    if callable(weight):
        return weight
    if weight not in INITIALIZERS:
        raise InputError(
            f"initializer '{weight}': use one of {', '.join(INITIALIZERS)}, or a function"
        )
    return INITIALIZERS[weight]


def _fan(shape: tuple[int, ...], mode: Fan) -> int:
    """Connections into an output element, or out of an input element."""
    taps = math.prod(shape[2:])
    return taps * (shape[1] if mode == "fan_in" else shape[0]) if len(shape) > 1 else shape[0]
