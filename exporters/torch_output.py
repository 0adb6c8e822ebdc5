"""Other people's code kept quiet, and its errors in one line."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Iterator

from advconv_onnx.errors import InputError

_LONGEST = 400
"""Characters of somebody else's message that are passed on."""


@contextlib.contextmanager
def blaming(what: str) -> Iterator[None]:
    """Turn whatever other people's code raises into one line about the call that caused it."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise InputError(f"{what}: {type(error).__name__}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """An error's message without colours and line breaks."""
    return " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split())[:_LONGEST]


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep torch's warnings, log lines and printed graphs off the terminal."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            yield
    finally:
        logging.disable(disabled)
