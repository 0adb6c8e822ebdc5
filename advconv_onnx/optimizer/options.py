"""What ``optimize`` is asked for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from advconv_onnx.errors import InputError
from advconv_onnx.records import Shape


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of ``advconv optimize``, under the same names.

    Attributes:
        inputs: shapes for graph inputs: sizes are fixed, names stay dynamic.
        provider: execution provider to validate and time on.
        threads: intra-op threads; None for one per physical core.
        level: "fuse" rewrites and proves; "search" also measures, and never ships a slower model.
        max_error: largest error accepted, relative to the range of each output.
        max_growth: largest accepted ratio of file sizes, optimized / original.
        time_limit: seconds after which nothing further is tried or refined; None for no limit.
        memory_limit: GiB that each child process may allocate; None for no limit.
        data: arrays to validate and time with, by input name.
        seed: of all randomness.
    """

    inputs: Mapping[str, Shape] = dataclasses.field(default_factory=dict)
    provider: str = "cpu"
    threads: int | None = None
    level: str = "search"
    max_error: float = 1e-4
    max_growth: float = 2.0
    time_limit: float | None = None
    memory_limit: float | None = None
    data: Mapping[str, np.ndarray] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that no run can make sense of.

        Raises:
            InputError: naming the option.
        """
        if self.level not in ("fuse", "search"):
            raise InputError(f"--level '{self.level}' is unknown; use fuse or search")
        for name in ("threads", "max_error", "max_growth", "time_limit", "memory_limit"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                option = f"--{name.replace('_', '-')}"
                raise InputError(f"{option} must be a number above 0, got {value:g}")

    @property
    def timing(self) -> dict[str, Any]:
        """Where and within what models are timed, as ``measure`` and ``race`` take it."""
        limit = None if self.memory_limit is None else int(self.memory_limit * 2**30)
        return {"provider": self.provider, "threads": self.threads, "memory_limit": limit}
