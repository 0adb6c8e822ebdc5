"""How far one tensor of two models lies apart, gathered sample by sample."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_FLAT = 1e-3
"""A tensor whose range is below this part of its magnitude holds too few digits to compare."""

_SATURATED = 1e-3
"""Values this close to a bound are saturated: a large change before them would not show."""

_SMALL_RANGE = 1e-2
"""Range of a bounded tensor below which the operator's own rounding exceeds usual tolerances."""


@dataclasses.dataclass(slots=True)
class Difference:
    """What the samples so far say about one tensor; differences are the largest absolute ones.

    Attributes:
        bounds: the values at which the tensor saturates, if it does.
        from_trusted: between the judged and the trusted model.
        from_trusted_only: the same, over samples without an exact result.
        from_exact: between the judged model and the exact result.
        rounding: between the trusted model and the exact result.
        unsaturated: how many elements are off the bounds.
        changed: how many integers differ for another reason than rounding in the trusted model.
        problem: why the tensor cannot even be compared in value.
    """

    bounds: tuple[float, float] | None
    low: float = math.inf
    high: float = -math.inf
    from_trusted: float = 0.0
    from_trusted_only: float = 0.0
    from_exact: float = 0.0
    rounding: float = 0.0
    elements: int = 0
    unsaturated: int = 0
    changed: int = 0
    is_float: bool = True
    problem: str = ""

    def add(self, want: Array, got: Array, exact: Array | None, *, typed: bool) -> None:
        """Take in one sample.

        Args:
            want: value of the trusted model.
            got: value of the judged model.
            exact: value of the trusted model in float64, None where it was not computed.
            typed: whether the two types must be the same, not just of the same kind.
        """
        if not (isinstance(want, np.ndarray) and isinstance(got, np.ndarray)):
            self.problem = "is no tensor; only tensors can be compared"
        elif want.shape != got.shape:
            self.problem = f"has shape {got.shape}, the original has {want.shape}"
        elif want.dtype != got.dtype if typed else want.dtype.kind != got.dtype.kind:
            self.problem = f"has type {got.dtype}, the original has {want.dtype}"
        elif exact is not None and want.shape != exact.shape:
            self.problem = f"has shape {want.shape} in ONNX Runtime, {exact.shape} in float64"
        elif want.dtype.kind in "fiub":
            self.elements += want.size
            self.is_float = want.dtype.kind == "f"
            (self._add_floats if self.is_float else self._add_integers)(want, got, exact)
        else:
            self.problem = f"has type {want.dtype}, which cannot be compared"

    def _add_integers(self, want: Array, got: Array, exact: Array | None) -> None:
        agreed = True if exact is None else exact == want
        self.changed += int(np.count_nonzero((want != got) & agreed))
        self._widen_range(want)

    def _add_floats(self, want: Array, got: Array, exact: Array | None) -> None:
        want, got = want.astype(np.float64), got.astype(np.float64)
        finite = np.isfinite(want)
        if not np.array_equal(
            np.where(finite, 0, want), np.where(np.isfinite(got), 0, got), equal_nan=True
        ):
            self.problem = "is NaN or infinite at other places than in the original"
            return
        apart = _largest(want, got, finite)
        self.from_trusted = max(self.from_trusted, apart)
        if exact is None:
            self.from_trusted_only = max(self.from_trusted_only, apart)
        else:
            known = finite & np.isfinite(exact)
            self.from_exact = max(self.from_exact, _largest(exact, got, known))
            self.rounding = max(self.rounding, _largest(exact, want, known))
        self._widen_range(want[finite])
        if self.bounds:
            margins = np.minimum(abs(want - self.bounds[0]), abs(want - self.bounds[1]))
            self.unsaturated += int(np.count_nonzero(margins > _SATURATED))

    def _widen_range(self, values: Array) -> None:
        if values.size:
            self.low = min(self.low, float(values.min()))
            self.high = max(self.high, float(values.max()))

    @property
    def range(self) -> float:
        """Largest minus smallest finite value of the trusted model; 0 when there are none."""
        return max(0.0, self.high - self.low)

    @property
    def is_degenerate(self) -> bool:
        """Whether agreement proves nothing, because (nearly) all values are the same anyway."""
        if not self.is_float or not self.range:
            return self.range == 0
        if self.bounds and self.range < _SMALL_RANGE:
            return True
        if self.bounds and self.unsaturated < min(16, self.elements / 10):
            return True
        return self.range <= _FLAT * self._magnitude

    @property
    def _magnitude(self) -> float:
        return max(abs(self.low), abs(self.high))

    @property
    def scale(self) -> float:
        """What differences are relative to: the range, or the magnitude of a degenerate tensor."""
        if not self.is_degenerate:
            return self.range
        return 1.0 if self.bounds else self._magnitude or 1.0

    def is_judged_exactly(self, max_error: float) -> bool:
        """Whether float64 can be the judge: the trusted model itself must agree with it."""
        return self.rounding <= max_error * self.scale

    def error(self, max_error: float) -> float:
        """Return the relative difference from the judge; for integers the part that changed."""
        if not self.is_float:
            return self.changed / max(1, self.elements)
        if self.is_judged_exactly(max_error):
            return max(self.from_exact, self.from_trusted_only) / self.scale
        return self.from_trusted / self.scale

    def differs(self, max_error: float) -> bool:
        """Whether the models disagree; integers must be equal."""
        return bool(self.problem) or self.error(max_error) > (max_error if self.is_float else 0)


def _largest(one: Array, other: Array, where: Array) -> float:
    return float(np.max(abs(one[where] - other[where]), initial=0.0))
