"""The errors this package raises on purpose; each carries the exit status of the command line."""

from __future__ import annotations


class AdvconvError(Exception):
    """Base of every deliberate error: one line saying what was found, where, and what to do."""

    exit_status = 2

    def __init__(self, message: str) -> None:
        # A damaged model's names hold anything, line breaks and terminal codes included.
        super().__init__("".join(c if c.isprintable() else " " for c in message))


class InputError(AdvconvError):
    """The call or an input file is wrong: nothing was computed."""


class MissingDependencyError(AdvconvError):
    """An optional package or execution provider is absent; the message says what to install."""


class CheckError(AdvconvError):
    """A check was carried out and failed: outputs differ, or a model does not run."""

    exit_status = 1
