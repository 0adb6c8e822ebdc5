"""What every target of ``advconv convert`` is asked for, and what it does with that."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.records import Artifact, Shape, Validation
from advconv_onnx.runtime.validate import Evidence, gather, usual_error, validate_run

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
"""Returns the outputs by name for one sample's inputs, or raises CheckError."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of ``advconv convert``, under the same names; targets add their own.

    Attributes:
        inputs: shapes for some of the model's inputs: sizes are fixed, names stay dynamic.
        max_error: largest difference from float64 accepted, relative to an output's range; None
            for what rounding explains.
        threads: intra-op threads; None for one per physical core.
        data: arrays for inputs, used as they are.
        seed: of the inputs that are drawn.
    """

    inputs: Mapping[str, Shape] = dataclasses.field(default_factory=dict)
    max_error: float | None = None
    threads: int | None = None
    data: Mapping[str, np.ndarray] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that no conversion can make sense of.

        Raises:
            InputError: naming the option.
        """
        if self.max_error is not None and not 0 < self.max_error < math.inf:
            raise InputError(f"--max-error must be a number above 0, got {self.max_error:g}")

    def load(self, model: str | os.PathLike[str], *outputs: str | os.PathLike[str]) -> ir.Model:
        """Read the model that is going to be converted.

        Raises:
            InputError: it cannot be read, or an output cannot be written or is part of it.
        """
        loaded = files.load_runnable(model, self.inputs)
        for output in outputs:
            files.check_output(output, model, loaded)
        return loaded

    def gather(self, model: ir.Model) -> Evidence:
        """Inputs, and what the model makes of them in float64; errors are those of ``gather``."""
        return gather(model, seed=self.seed, threads=self.threads, data=self.data)

    def limit(self, model: ir.Model) -> float:
        """The error accepted for a model."""
        return usual_error(model) if self.max_error is None else self.max_error

    def prove(self, original: ir.Model, run: Run, evidence: Evidence) -> Validation:
        """Compare what was converted, wherever it runs, with the original.

        Raises:
            CheckError: saying what differs.
        """
        limits: dict[str, Any] = {"max_error": self.limit(original), "threads": self.threads}
        return accept(validate_run(original, run, evidence=evidence, **limits))


def accept(found: Validation) -> Validation:
    """Let nothing be written that computes something else.

    Raises:
        CheckError: saying what differs.
    """
    if not found.passed:
        raise CheckError(f"nothing was written: {found.failure}")
    return found


def artifact(target: str, written: Iterable[Path], found: Validation, **more: Any) -> Artifact:
    """Describe what was written.

    Args:
        target: name of the target.
        written: the files.
        found: the evidence.
        more: other fields of ``Artifact``.
    """
    paths = tuple(written)
    size = sum(path.stat().st_size for path in paths)
    return Artifact(target, tuple(map(str, paths)), size, found, **more)
