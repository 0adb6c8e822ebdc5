"""How reports spell counts and shapes."""

from __future__ import annotations

from collections.abc import Sequence

from advconv_onnx.records import Dim


def si(number: int | None, unit: str = "") -> str:
    """Spell a count with up to four digits: 9999, 12.3 k, 4.5 M; "?" when unknown."""
    if number is None:
        return "?"
    if number < 10_000:
        return f"{number} {unit}".rstrip()
    scaled, prefix = number / 1e3, "k"
    for larger in "MGTP":
        if scaled < 999.5:
            break
        scaled, prefix = scaled / 1e3, larger
    return f"{scaled:.3g} {prefix}{unit}"


def sizes(shape: Sequence[Dim] | None) -> str:
    """Spell a shape as ``--input`` reads it."""
    return "x".join("?" if dim is None else str(dim) for dim in shape) if shape else "?"
