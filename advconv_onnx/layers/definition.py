"""What the references of the layers have in common, spelled out: slow, obvious, float64.

Arrays are (N, C, *spatial) with any number of spatial axes. Nothing here is clever on purpose:
these few functions are what ONNX Runtime and torch are held to.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from advconv_onnx.layers.initializers import Array

Parameters = Mapping[str, Array]
"""A layer's arrays by the name they have within the layer: "weight", "bias", "norm.weight" ..."""


def pad_zeros(x: Array, padding: Sequence[tuple[int, int]]) -> Array:
    """Zeros before and after each spatial axis.

    >>> pad_zeros(np.array([[[1, 2]]]), [(2, 1)])
    array([[[0, 0, 1, 2, 0]]])
    """
    return np.pad(x, [(0, 0), (0, 0), *padding])


def space_out(x: Array, steps: Sequence[int]) -> Array:
    """``step - 1`` zeros between neighbours along each spatial axis, none around them.

    On a kernel this makes the gaps of a dilation, on an image what a transposed convolution sees.

    >>> space_out(np.array([[[1, 2, 3]]]), [2])
    array([[[1, 0, 2, 0, 3]]])
    """
    size = [(n - 1) * step + 1 for n, step in zip(x.shape[2:], steps, strict=True)]
    spaced = np.zeros((*x.shape[:2], *size), x.dtype)
    every: list[Any] = [slice(None, None, step) for step in steps]
    spaced[(..., *every)] = x
    return spaced


def slide(x: Array, kernels: Array, strides: Sequence[int]) -> Array:
    """One output map per kernel: at each position, the sum of pixels times taps.

    Args:
        x: (N, C, *size), padding included.
        kernels: (maps, C, *kernel_shape), gaps included.
        strides: steps between positions.

    >>> slide(np.array([[[1.0, 2, 3, 4]]]), np.array([[[1.0, 10]]]), [2])
    array([[[21., 43.]]])
    """
    kernel_shape = kernels.shape[2:]
    starts = [
        range(0, n - k + 1, s) for n, k, s in zip(x.shape[2:], kernel_shape, strides, strict=True)
    ]
    y = np.zeros((x.shape[0], len(kernels), *map(len, starts)))
    for position in itertools.product(*(range(len(axis)) for axis in starts)):
        corner = [axis[index] for axis, index in zip(starts, position, strict=True)]
        under: list[Any] = [slice(c, c + k) for c, k in zip(corner, kernel_shape, strict=True)]
        patch = x[(..., *under)]
        for n, image in enumerate(patch):
            for m, kernel in enumerate(kernels):
                y[(n, m, *position)] = np.sum(image * kernel)
    return y


def along_channels(values: Array, rank: int) -> Array:
    """(C,) as (C, 1, ..., 1), so that it meets the channels of (N, C, *spatial)."""
    return values.reshape(-1, *[1] * rank)


def within(part: str, parameters: Parameters) -> Parameters:
    """The parameters of a part of a layer, under their names within it.

    >>> within("norm", {"weight": np.zeros(3), "norm.bias": np.ones(1)})
    {'bias': array([1.])}
    """
    prefix = f"{part}."
    return {
        name.removeprefix(prefix): array
        for name, array in parameters.items()
        if name.startswith(prefix)
    }
