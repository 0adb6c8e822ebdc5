"""One rewrite a file, exact up to rounding and never more work; adding a file adds the rewrite.

A file declares ``RULE``, and models as ONNX text for the contract tests: ``EXAMPLES`` that it must
rewrite, ``NEAR_MISSES`` that it must refuse (with a part of the reason, "" where nothing matches).
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from advconv_onnx.rewriter.rule import Rule


def all_rules(provider: str | None = None) -> tuple[Rule[Any], ...]:
    """Every rule of this folder, in order of file name.

    Args:
        provider: leaves out rules that are meant for other execution providers; None leaves out
            none.
    """
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    rules = (importlib.import_module(f"{__name__}.{name}").RULE for name in names)
    return tuple(
        rule
        for rule in rules
        if provider is None or not rule.providers or provider in rule.providers
    )
