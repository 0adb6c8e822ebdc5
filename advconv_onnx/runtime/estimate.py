"""How long an inference takes, roughly: enough to plan what to measure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from advconv_onnx.runtime.field import Field
from advconv_onnx.runtime.pool import Pool

_ROUNDS = 3


def estimate_ms(
    model: os.PathLike[str],
    inputs: Mapping[str, np.ndarray],
    *,
    pool: Pool,
    timeout: float = 120.0,
    **options: Any,
) -> float:
    """Milliseconds of the fastest of a few inferences, in a process of its own.

    Args:
        model: a model file.
        inputs: the arrays of one inference by input name.
        pool: of processes to use.
        timeout: seconds that loading, or one turn, may take.
        options: further ones of ``Field.open``.

    Raises:
        CheckError: the model does not load or run.
    """
    rng = np.random.default_rng(0)  # of the order of turns, which one model has no choice of
    with Field.open({"": model}, inputs, ("",), pool=pool, timeout=timeout, **options) as field:
        return min(field.run_round(rng)[0] for _ in range(_ROUNDS)) / 1e6
