"""Equal forms of a site, one idea a file, chosen by measurement; adding a file adds its forms.

A file declares ``FORMS``, variants of one idea, and models as ONNX text for the contract tests:
``EXAMPLES`` that at least one of the variants rewrites, and ``NEAR_MISSES`` that all must refuse
(with a part of the reason, "" where nothing matches).
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from advconv_onnx.rewriter.forms.form import Form

_NO_FORMS = frozenset(("form",))


def all_forms(provider: str | None = None) -> tuple[Form[Any], ...]:
    """Every form of this folder, in order of file name.

    Args:
        provider: leaves out forms that are meant for other execution providers; None leaves out
            none.
    """
    names = sorted({module.name for module in pkgutil.iter_modules(__path__)} - _NO_FORMS)
    forms = (form for n in names for form in importlib.import_module(f"{__name__}.{n}").FORMS)
    return tuple(
        form
        for form in forms
        if provider is None or not form.providers or provider in form.providers
    )
