"""A convolution without those of its taps that do nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.rule import Refused
from advconv_onnx.rewriter.sliding import Sliding


@dataclasses.dataclass(frozen=True)
class Trimming:
    """A convolution, the taps it keeps along each axis, and how it then slides."""

    convolution: Convolution
    kept: tuple[slice, ...]
    sliding: Sliding

    @classmethod
    def of(cls, convolution: Convolution, used: Sequence[Sequence[int]], reason: str) -> Trimming:
        """Keep the taps ``used`` along each axis, and those that pads do not reach.

        Raises:
            Refused: all taps are left, for the reason given.
        """
        sliding = Sliding.of(convolution)
        kept = tuple(sliding.kept_taps(axis, taps) for axis, taps in enumerate(used))
        trimmed = sliding.trimmed(kept)
        if trimmed.kernel == sliding.kernel:
            raise Refused(reason)
        return cls(convolution, kept, trimmed)

    def build(self, op: Builder) -> ir.Value:
        """The convolution of fewer taps."""
        old = self.convolution
        weight = old.weight[(slice(None), slice(None), *self.kept)]
        return old.rebuild(op, old.x, weight, old.bias, **self.sliding.attributes)
