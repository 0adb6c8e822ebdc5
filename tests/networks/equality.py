"""A network against its torch twin: same weights in, same numbers out.

The twin runs in float64 and is the judge, so that only our own side's rounding counts.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from advconv_onnx import catalog
from advconv_onnx.runtime.session import open_session

# Where several processes share the cores, threads wait for each other longer than they compute.
torch.set_num_threads(1)

BOUND = 1e-5
"""Largest difference, relative to the range of the twin's output."""

_ALIVE = 1e-2
"""Outputs of two images must differ by this part of the range, or their equality means little."""

Shapes = Sequence[tuple[int, ...]]


def randomize(
    twin: torch.nn.Module, seed: int = 0, *, shape: tuple[int, ...] = (4, 3, 64, 64)
) -> torch.nn.Module:
    """Give a twin weights and BatchNormalization statistics as after a training, in place.

    Weights are drawn by torch's usual rule, scales and shifts of BatchNormalization too; its
    statistics are measured on noise of ``shape``, so that no activation fades or grows. The shifts
    are mostly above zero: with as many below, each ReLU leaves behind a mean that the next
    BatchNormalization takes away, and rounding grows to 1e-5 of the range in 50 layers.
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if parameter.ndim > 1:
                torch.nn.init.kaiming_uniform_(parameter, a=math.sqrt(5), generator=rng)
            else:
                mean = 1.0 if name.endswith("weight") else 0.5
                parameter.normal_(mean, 0.2, generator=rng)
        for module in twin.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None  # the statistics of this one batch
        twin.train()(torch.from_numpy(_images(shape, seed)))
    return twin.eval()


def assert_twin_agrees(
    name: str, twin: torch.nn.Module, shapes: Shapes, *, seed: int = 0, **parameters: Any
) -> ir.Model:
    """Build ``name`` with the weights of its twin and compare; what differs in shapes is dynamic.

    Args:
        name: of the network.
        twin: the same network in torch; its weights are randomized.
        shapes: of inputs to compare at; one of them with a batch above 1.
        seed: of weights and inputs.
        **parameters: of the network.

    Returns:
        The model, for ``assert_export_agrees``.
    """
    randomize(twin, seed, shape=(4, *shapes[0][1:]))
    axes = zip("NCHW", *shapes, strict=True)
    input_shape = tuple(dims[0] if len(set(dims)) == 1 else axis for axis, *dims in axes)
    model = catalog.from_state_dict(name, twin.state_dict(), input_shape=input_shape, **parameters)
    _assert_same(model, twin, shapes, seed)
    return model


def assert_export_agrees(model: ir.Model, twin: torch.nn.Module, shapes: Shapes) -> None:
    """Compare with what torch.onnx.export makes of the twin, at each shape, through ONNX Runtime.

    Args:
        model: as ``assert_twin_agrees`` returned it.
        twin: as it left it.
        shapes: of the inputs.
    """
    _assert_same(model, twin, shapes, seed=1)
    for shape in shapes:
        images = _images(shape, 1)
        [exported] = _run(_export(twin, torch.from_numpy(images)), images)
        [built] = _run(model, images)
        assert _relative(built, exported) < BOUND


def count_with_statistics(model: ir.Model) -> int:
    """Parameters and the statistics of BatchNormalization: Keras's "total params".

    What torch publishes, and Keras calls "trainable params", is ``catalog.count_parameters``: it
    leaves out the statistics, a mean and a variance per channel.
    """
    statistics = [v for name, v in model.graph.initializers.items() if ".running_" in name]
    return catalog.count_parameters(model) + sum(v.const_value.size for v in statistics)


def _assert_same(model: ir.Model, twin: torch.nn.Module, shapes: Shapes, seed: int) -> None:
    judge = copy.deepcopy(twin).double()
    assert max(shape[0] for shape in shapes) > 1, "one shape needs two images to tell apart"
    for shape in shapes:
        images = _images(shape, seed)
        with torch.no_grad():
            exact = judge(torch.from_numpy(images).double()).numpy()
        [built] = _run(model, images)
        assert built.shape == exact.shape
        assert np.ptp(exact[0] - exact[-1]) > _ALIVE * np.ptp(exact) or shape[0] == 1
        assert _relative(built, exact) < BOUND


def _images(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Noise, each channel of each image with a mean of its own."""
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((*shape[:2], *[1] * (len(shape) - 2)))
    return (means + rng.standard_normal(shape)).astype(np.float32)


def _run(model: ir.Model, images: np.ndarray) -> list[np.ndarray]:
    session = open_session(model, threads=1)
    return session.run(None, {session.get_inputs()[0].name: images})


def _relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(abs(found - wanted).max() / np.ptp(wanted))


def _export(twin: torch.nn.Module, images: torch.Tensor) -> ir.Model:
    """Export at a fixed shape; torch's own warnings and progress lines are not our concern."""
    with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
        program = torch.onnx.export(twin, (images,), dynamo=True, verbose=False)
    assert program is not None
    return program.model
