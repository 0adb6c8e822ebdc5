"""What the search remembers of earlier runs; it always works, and keeps where it can."""

from __future__ import annotations

from pathlib import Path

from advconv_onnx.errors import InputError
from advconv_onnx.optimizer.decisions import Decisions, default_path
from advconv_onnx.records import Decision, Figure


class Cache:
    """Figures of one situation, kept in a file where that is possible.

    Where it is not, because a folder is read-only or the file is locked, damaged or another
    program's, they are kept in memory, and ``problem`` says why. Such a file stays as it is.

    Attributes:
        problem: one line about the first thing that went wrong, "" for nothing.
    """

    def __init__(self, situation: str, path: Path | None = None) -> None:
        """Open or make a cache, which should be closed.

        Args:
            situation: provider, threads, processor and versions, as text.
            path: the file; None for the usual one, or none where ADVCONV_CACHE is off.
        """
        self.problem = ""
        self._situation = situation
        self._recent: dict[tuple[str, str], Figure] = {}
        self._file: Decisions | None = None
        self._keeps = True
        path = path or default_path()
        if path is not None:
            try:
                self._file = Decisions(path)
            except InputError as error:
                self.problem = str(error)

    def get(self, window: str, form: str) -> Figure | None:
        """Return the figure of a form in a window; None where it was never taken."""
        if (window, form) in self._recent:
            return self._recent[window, form]
        if self._file is None:
            return None
        try:
            return self._file.get(self._situation, window, form)
        except InputError as error:
            self.problem = self.problem or str(error)
            self.close()
            return None

    def put(self, window: str, form: str, figure: Figure) -> None:
        """Keep a figure; once this returns, not even a kill loses it."""
        self._recent[window, form] = figure
        if self._file is None or not self._keeps:
            return
        try:
            self._file.put(Decision(self._situation, window, form, figure))
        except InputError as error:
            self.problem = self.problem or str(error)
            self._keeps = False  # but what the file knows stays readable

    def close(self) -> None:
        """Close the file; what was put is still remembered."""
        if self._file is not None:
            self._file.close()
            self._file = None
